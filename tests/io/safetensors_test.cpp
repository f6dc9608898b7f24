#include "moelora/io/safetensors.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "io/damage.h"
#include "io/raises.h"
#include "moelora/io/json_file.h"
#include "support/shared.h"

namespace moelora::io {
namespace {

/// The bytes of a safetensors file with this header and data.
std::string file_bytes(const std::string& header, const std::string& data) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) {
    bytes += static_cast<char>(header.size() >> (8 * i) & 0xff);
  }
  return bytes + header + data;
}

class SafetensorsTest : public ::testing::Test {
 protected:
  std::filesystem::path write(const std::string& bytes) const {
    write_bytes(path(), bytes);
    return path();
  }
  ::testing::AssertionResult refused(const std::string& header, const std::string& data,
                                     const std::string& part) const {
    write(file_bytes(header, data));
    return raises([&] { load_safetensors(path()); }, part);
  }
  std::filesystem::path path() const { return folder_.path() / "f.safetensors"; }

 private:
  moelora::testing::TemporaryFolder folder_;
};

TEST_F(SafetensorsTest, ReadsBackEveryTypeAndShape) {
  NamedTensors tensors;
  for (const auto dtype : {at::kBool, at::kByte, at::kChar, at::kShort, at::kInt, at::kLong, at::kBFloat16, at::kHalf,
                           at::kFloat, at::kDouble}) {
    tensors.emplace_back(std::string("t.") + c10::toString(dtype),
                         at::arange(0, 21, at::kInt).reshape({3, 7}).to(dtype));
  }
  tensors.emplace_back("scalar", at::zeros({}, at::kFloat));
  tensors.emplace_back("empty", at::empty({0, 5}, at::kHalf));
  tensors.emplace_back("transposed", at::arange(0, 12, at::kFloat).reshape({3, 4}).t());
  tensors.emplace_back("every second", at::arange(0, 12, at::kLong).slice(0, 0, 12, 2));
  tensors.emplace_back("expanded", at::arange(0, 3, at::kFloat).expand({2, 3}));
  tensors.emplace_back("名字 \"quoted\"\n", at::arange(0, 3, at::kInt));
  save_safetensors(path(), tensors, {{"format", "pt"}, {"注", "备"}});
  const SafetensorsFile file(path());
  EXPECT_EQ(file.metadata().at("注"), "备");
  ASSERT_EQ(file.entries().size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    ASSERT_TRUE(file.contains(name)) << name;
    for (const at::Tensor& read : {file.tensor(name), file.view(name)}) {
      EXPECT_EQ(read.scalar_type(), tensor.scalar_type()) << name;
      EXPECT_EQ(read.sizes(), tensor.sizes()) << name;
      EXPECT_TRUE(at::equal(read, tensor)) << name;
    }
  }
}

TEST_F(SafetensorsTest, EveryTensorInAWrittenFileIsAligned) {
  save_safetensors(path(), {{"bytes", at::zeros({3}, at::kByte)},
                            {"halves", at::zeros({3}, at::kHalf)},
                            {"doubles", at::zeros({1}, at::kDouble)},
                            {"floats", at::zeros({1}, at::kFloat)}});
  const std::string bytes = read_text_file(path());
  const std::size_t header = 8 + static_cast<unsigned char>(bytes[0]) + 256u * static_cast<unsigned char>(bytes[1]);
  EXPECT_EQ(header % 8, 0u);
  const SafetensorsFile file(path());
  for (const auto& [name, info] : file.entries()) {
    EXPECT_EQ(info.begin % c10::elementSize(info.dtype), 0u) << name;
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(file.tensor(name).const_data_ptr()) % 64, 0u) << name;
  }
}

TEST_F(SafetensorsTest, KeepsTheGivenOrderInTheFile) {
  save_safetensors(path(), {{"z", at::zeros({2}, at::kFloat)}, {"a", at::zeros({2}, at::kFloat)}});
  const SafetensorsFile file(path());
  EXPECT_EQ(file.entries().at("z").begin, 0u);
  EXPECT_EQ(file.entries().at("a").begin, 8u);
}

TEST_F(SafetensorsTest, AViewOutlivesItsFile) {
  save_safetensors(path(), {{"w", at::arange(0, 1000, at::kFloat)}});
  at::Tensor view;
  {
    SafetensorsFile file(path());
    view = file.view("w");
    SafetensorsFile moved = std::move(file);
    EXPECT_EQ(view.const_data_ptr(), moved.view("w").const_data_ptr());  // no copy
  }
  EXPECT_TRUE(at::equal(view, at::arange(0, 1000, at::kFloat)));
}

TEST_F(SafetensorsTest, ReadsMisalignedData) {
  const float values[] = {1.5f, -2.0f};
  std::string data(reinterpret_cast<const char*>(values), sizeof values);
  write(file_bytes(R"({"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                   R"("w":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}})",
                   "\x07" + data));
  const SafetensorsFile file(path());
  for (const at::Tensor& w : {file.view("w"), file.tensor("w")}) {
    EXPECT_EQ(w[0].item<float>(), 1.5f);
    EXPECT_EQ(w[1].item<float>(), -2.0f);
  }
}

TEST_F(SafetensorsTest, ReadsOtherBytesThanOneAsTrue) {
  write(file_bytes(R"({"b":{"dtype":"BOOL","shape":[3],"data_offsets":[0,3]}})", std::string("\0\xff\2", 3)));
  const at::Tensor raw = SafetensorsFile(path()).view("b").view(at::kByte);
  EXPECT_EQ(raw.sum().item<int>(), 2);
}

TEST_F(SafetensorsTest, RefusesDamagedEntries) {
  const std::string eight(8, '\0');
  const auto entry = [](const std::string& fields) { return "{\"w\":{" + fields + "}}"; };
  EXPECT_TRUE(refused(entry(R"("dtype":"F99","shape":[2],"data_offsets":[0,8])"), eight, "found \"F99\""));
  EXPECT_TRUE(refused(entry(R"("shape":[2],"data_offsets":[0,8])"), eight, "expected a \"dtype\""));
  EXPECT_TRUE(refused(entry(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])"), eight, "take 12 bytes"));
  EXPECT_TRUE(refused(entry(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])"), eight, "whole numbers from 0"));
  EXPECT_TRUE(refused(entry(R"("dtype":"F32","shape":[2.0],"data_offsets":[0,8])"), eight, "whole numbers from 0"));
  EXPECT_TRUE(refused(entry(R"("dtype":"F32","shape":2,"data_offsets":[0,8])"), eight, "a list \"shape\""));
  EXPECT_TRUE(refused(entry(R"("dtype":"F32","shape":[2],"data_offsets":[8,0])"), eight, "begin <= end"));
  EXPECT_TRUE(refused(entry(R"("dtype":"F32","shape":[2],"data_offsets":[0])"), eight, "begin <= end"));
  EXPECT_TRUE(refused(entry(R"("dtype":"F32","shape":[4],"data_offsets":[0,16])"), eight, "cut off or damaged"));
  EXPECT_TRUE(refused(entry(R"("dtype":"F32","shape":[2],"data_offsets":[0,8])"), eight + "x", "the tensors end"));
  EXPECT_TRUE(refused(entry(R"("dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0])"), eight,
                      "too many dimensions or elements"));
  EXPECT_TRUE(refused(entry(R"("dtype":"F32","shape":[0,4611686018427387904,9],"data_offsets":[0,0])"), "",
                      "too many dimensions or elements"));
  EXPECT_TRUE(
      refused(entry(R"("dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,8])"), eight, "whole numbers"));
  std::string ones = "1";
  for (int i = 0; i < 100; ++i) {
    ones += ",1";
  }
  EXPECT_TRUE(refused(entry("\"dtype\":\"F64\",\"shape\":[" + ones + "],\"data_offsets\":[0,8]"), eight,
                      "too many dimensions"));
  EXPECT_TRUE(refused(R"({"w":[]})", "", "expected an object with dtype"));
  EXPECT_TRUE(refused(R"({"a":{"dtype":"U8","shape":[5],"data_offsets":[0,5]},)"
                      R"("b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
                      eight, "overlap"));
  EXPECT_TRUE(refused(R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},)"
                      R"("a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}})",
                      eight, "appears twice"));
}

TEST_F(SafetensorsTest, RefusesDamagedHeaders) {
  EXPECT_TRUE(refused("[]", "", "no JSON object"));
  EXPECT_TRUE(refused("", "", "no JSON object"));
  EXPECT_TRUE(refused("{\"a\"", "", "(header):1:"));
  EXPECT_TRUE(refused("{" + std::string(1000000, '['), "", "nest deeper"));
  EXPECT_TRUE(refused(R"({"__metadata__":{"a":1}})", "", "expected strings in \"__metadata__\""));
  EXPECT_TRUE(refused(R"({"__metadata__":3})", "", "expected an object \"__metadata__\""));
  write(std::string(7, '\0'));
  EXPECT_TRUE(raises([&] { SafetensorsFile{path()}; }, "has only 7 bytes"));
  write(std::string(8, '\xff') + "{}");
  EXPECT_TRUE(raises([&] { SafetensorsFile{path()}; }, "its header claims"));
  write("\x10" + std::string(7, '\0') + "{}");
  EXPECT_TRUE(raises([&] { SafetensorsFile{path()}; }, "cut off"));
  write("");
  EXPECT_TRUE(raises([&] { SafetensorsFile{path()}; }, "is empty"));
  write("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n");
  EXPECT_TRUE(raises([&] { SafetensorsFile{path()}; }, "Git LFS pointer"));
  EXPECT_TRUE(raises([&] { SafetensorsFile{path().parent_path()}; }, "folder or device"));
  EXPECT_TRUE(raises([&] { SafetensorsFile{path().parent_path() / "absent"}; }, "No such file"));
}

TEST_F(SafetensorsTest, EveryCutOfAFileIsAnError) {
  save_safetensors(path(), {{"a", at::zeros({2, 3}, at::kFloat)}, {"b", at::zeros({5}, at::kHalf)}}, {{"k", "v"}});
  const std::string whole = read_text_file(path());
  for (std::size_t size = 0; size < whole.size(); ++size) {
    write(whole.substr(0, size));
    EXPECT_TRUE(raises([&] { load_safetensors(path()); }, "f.safetensors")) << size;
  }
}

TEST_F(SafetensorsTest, EveryFlippedBitLoadsOrIsAnError) {
  save_safetensors(path(), {{"a", at::zeros({2, 3}, at::kFloat)}, {"b", at::zeros({5}, at::kBool)}}, {{"k", "v"}});
  const DamageReport report =
      flip_every_bit(path(), 0, std::filesystem::file_size(path()), [&] { load_safetensors(path()); });
  EXPECT_GT(report.refused, 0);
  EXPECT_GT(report.loaded, 0);  // letters of names, values
}

TEST_F(SafetensorsTest, RefusesToWriteWhatTheFormatLacks) {
  const at::Tensor tensor = at::zeros({2}, at::kFloat);
  EXPECT_TRUE(raises([&] { save_safetensors(path(), {{"w", at::Tensor()}}); }, "\"w\" is no dense tensor"));
  EXPECT_TRUE(raises([&] { save_safetensors(path(), {{"w", at::zeros({2}, at::kComplexFloat)}}); }, "lacks"));
  EXPECT_TRUE(raises([&] { save_safetensors(path(), {{"w", tensor}, {"w", tensor}}); }, "given twice"));
  EXPECT_TRUE(raises([&] { save_safetensors(path(), {{"__metadata__", tensor}}); }, "__metadata__"));
  EXPECT_TRUE(raises([&] { save_safetensors(path(), {{"\xff", tensor}}); }, "UTF-8"));
  EXPECT_FALSE(std::filesystem::exists(path()));
}

TEST_F(SafetensorsTest, WritesAFileWithoutTensors) {
  save_safetensors(path(), {});
  EXPECT_TRUE(load_safetensors(path()).empty());
}

TEST_F(SafetensorsTest, NamesATensorThatIsNotThere) {
  save_safetensors(path(), {});
  EXPECT_TRUE(raises([&] { SafetensorsFile(path()).tensor("w"); }, "holds no tensor \"w\""));
}

}  // namespace
}  // namespace moelora::io
