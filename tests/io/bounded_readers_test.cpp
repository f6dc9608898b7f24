// Hostile files: whatever they claim, reading them costs what their size can ask for.

#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "io/damage.h"
#include "io/torch_archive.h"
#include "moelora/io/json_file.h"
#include "moelora/io/json_reader.h"
#include "moelora/io/safetensors.h"
#include "moelora/io/tensor_folder.h"
#include "moelora/io/torch_checkpoint.h"
#include "support/bounded.h"
#include "support/shared.h"

namespace moelora::io {
namespace {

using moelora::testing::bounded;
using moelora::testing::repeated;

class BoundedReaders : public ::testing::Test {
 protected:
  ::testing::AssertionResult checkpoint(const std::string& bytes, const std::string& part) const {
    write_bytes(path("f.bin"), bytes);
    return bounded([&] { load_torch_checkpoint(path("f.bin")); }, part);
  }
  ::testing::AssertionResult pickle(const std::string& body, const std::string& part) const {
    return checkpoint(checkpoint_bytes("\x80\x02" + body), part);
  }
  ::testing::AssertionResult safetensors(const std::string& header, const std::string& part) const {
    write_bytes(path("f.safetensors"), little_endian(header.size(), 8) + header);
    return bounded([&] { load_safetensors(path("f.safetensors")); }, part);
  }
  ::testing::AssertionResult json(const std::string& text, const std::string& part) const {
    write_bytes(path("f.json"), text);
    return bounded([&] { read_json_file(path("f.json")); }, part);
  }
  std::filesystem::path path(const char* name) const { return folder_.path() / name; }

 private:
  moelora::testing::TemporaryFolder folder_;
};

// Memo entry 0: a function, 1: a tuple of so many values.
std::string function_and_tuple(const std::string& name, const std::string& first, std::size_t values) {
  return p_global("torch._utils", name) + "q" + std::string("\0", 1) + "(" + first + std::string(values, 'N') +
         "tq\x01";
}

TEST_F(BoundedReaders, PicklesDoNotMultiply) {
  const std::string call("h\0h\x01R", 5);
  EXPECT_TRUE(pickle(function_and_tuple("_rebuild_tensor_v2", "", 100000) + repeated(call, 30000) + ".", "one value"));
  const std::string tensor = function_and_tuple("_rebuild_tensor_v2", "", 100000) + "Rq\x02";
  const std::string parameter = p_global("torch._utils", "_rebuild_parameter") + "q\x03h\x02\x85q\x04";
  EXPECT_TRUE(pickle(tensor + parameter + repeated("h\x03h\x04R", 30000) + ".", "one value"));
  EXPECT_TRUE(pickle("(" + std::string(100000, 'N') + "tq\x01" + repeated("h\x01Q", 30000) + ".", "one value"));
}

TEST_F(BoundedReaders, ContainersThatHoldEachOtherStayFlat) {
  EXPECT_TRUE(pickle("]q\x01" + repeated("h\x01h\x01h\x01\x87q\x01", 100000) + ".", "one value"));
  EXPECT_TRUE(pickle("]q\x01" + repeated("(h\x01h\x01h\x01h\x01lq\x01", 1000) + ".", "opcode 108"));
  EXPECT_TRUE(pickle("]q\x01" +
                         repeated("(h\x01h\x01h\x01h\x01"
                                  "e",
                                  100000) +
                         ".",
                     "found a list"));
  EXPECT_TRUE(pickle("}q\x01" + repeated("(h\x01h\x01h\x01h\x01u", 100000) + ".", "expected names as keys"));
  EXPECT_TRUE(pickle("}" + repeated("}}s", 1000000) + ".", "expected names as keys"));
}

TEST_F(BoundedReaders, EachByteOfAPickleCostsLittle) {
  for (const char* opcode : {"]", "}", ")", "N", "(", "\x88", "]\x94", "K\x01", "]Na"}) {
    const std::string many = repeated(opcode, (std::size_t{7} << 20) / std::string(opcode).size());
    EXPECT_TRUE(pickle(many + ".", "one value")) << opcode;
  }
  EXPECT_TRUE(pickle(std::string(std::size_t{9} << 20, ']') + ".", "far more than a state dict"));
  std::string memos = "}";
  for (std::uint64_t i = 0; i < 500000; ++i) {
    memos += "r" + little_endian(i * 8000, 4);
  }
  EXPECT_TRUE(pickle(memos + ".", ""));
}

std::string zeros(std::size_t count) { return std::string(4 * count, '\0'); }

TEST_F(BoundedReaders, ViewsOfOneStorageAreLegalButCounted) {
  constexpr std::int64_t kCount = 250000;
  const std::string tensor = p_tensor(p_storage("FloatStorage", "0", kCount), 0, {kCount}, {1});
  std::vector<std::pair<std::string, std::string>> views;
  for (int i = 0; i < 6; ++i) {
    views.emplace_back("w" + std::to_string(i), tensor);
  }
  EXPECT_TRUE(checkpoint(checkpoint_bytes(p_state_dict(views), {zeros(kCount)}), ""));
  for (int i = 6; i < 4000; ++i) {
    views.emplace_back("w" + std::to_string(i), tensor);
  }
  EXPECT_TRUE(checkpoint(checkpoint_bytes(p_state_dict(views), {zeros(kCount)}), "share storages more often"));
}

TEST_F(BoundedReaders, SmallStridedTensorsDoNotCopyTheirStorage) {
  constexpr std::int64_t kCount = 2000000;
  std::vector<std::pair<std::string, std::string>> views;
  for (int i = 0; i < 10000; ++i) {
    views.emplace_back("w" + std::to_string(i), p_tensor(p_storage("FloatStorage", "0", kCount), i, {2}, {kCount / 2}));
  }
  EXPECT_TRUE(checkpoint(checkpoint_bytes(p_state_dict(views), {zeros(kCount)}), ""));
}

TEST_F(BoundedReaders, StridedTensorsKeepTheirValues) {
  std::string bytes;
  for (int i = 0; i < 24; ++i) {
    bytes += static_cast<char>(i);
  }
  const auto load = [&](const char* type, const std::vector<std::int64_t>& shape,
                        const std::vector<std::int64_t>& strides) {
    const std::string storage = p_storage(type, "0", type == std::string("ShortStorage") ? 12 : 24);
    write_bytes(path("f.bin"), checkpoint_bytes(p_state_dict({{"w", p_tensor(storage, 0, shape, strides)}}), {bytes}));
    return load_torch_checkpoint(path("f.bin")).at("w");
  };
  constexpr std::int64_t kHuge = std::int64_t{1} << 62;  // the stride of a size of 1 is never taken
  EXPECT_TRUE(at::equal(load("ByteStorage", {2, 1, 3}, {12, kHuge, 2}),
                        at::tensor({0, 2, 4, 12, 14, 16}, at::kByte).view({2, 1, 3})));
  EXPECT_TRUE(
      at::equal(load("ByteStorage", {1, 2, 1}, {kHuge, 23, kHuge}), at::tensor({0, 23}, at::kByte).view({1, 2, 1})));
  EXPECT_TRUE(at::equal(load("ShortStorage", {2, 2}, {1, 2}),
                        at::tensor({0x0100, 0x0504, 0x0302, 0x0706}, at::kShort).view({2, 2})));
  const at::Tensor truth = load("BoolStorage", {2, 2}, {1, 2});
  EXPECT_TRUE(at::equal(truth.view(at::kByte), at::tensor({0, 1, 1, 1}, at::kByte).view({2, 2})));
}

TEST_F(BoundedReaders, OneLongShapeSharedByManyTensorsIsRefused) {
  std::string inner = "\x80\x02}(" + p_text("first") + p_global("torch._utils", "_rebuild_tensor_v2") + "(" +
                      p_storage("FloatStorage", "0", 1) + p_int(0) + p_ints(std::vector<std::int64_t>(64, 1)) +
                      "q\x02h\x02tRq\x03";
  for (int i = 0; i < 200000; ++i) {
    inner += p_text(std::to_string(i)) + "h\x03";
  }
  EXPECT_TRUE(checkpoint(checkpoint_bytes(inner + "u.", {zeros(1)}), "more than the pickle has bytes"));
}

TEST_F(BoundedReaders, ZipMembersMayNotShareBytes) {
  // A member whose data are another member with its header.
  const std::string inner = zip_archive({{"a/data/0", zeros(100)}});
  std::string outer = zip_archive({{"a/data.pkl", "\x80\x02}."}, {"a/data/1", inner}});
  const std::size_t local = outer.find("PK\x03\x04", outer.find("a/data/1"));
  ASSERT_NE(local, std::string::npos);
  const std::size_t entry = outer.rfind("PK\x01\x02");
  std::string lying = outer.substr(entry, 46 + 8);
  lying.replace(20, 8, little_endian(400, 4) + little_endian(400, 4));
  lying.replace(42, 4, little_endian(local, 4));
  lying.replace(46, 8, "a/data/0");
  const std::size_t end = outer.rfind("PK\x05\x06");
  const std::size_t directory = outer.find("PK\x01\x02", local + 500);
  std::string bytes = outer.substr(0, end) + lying + outer.substr(end);
  const std::size_t new_end = end + lying.size();
  bytes.replace(new_end + 8, 4, little_endian(3, 2) + little_endian(3, 2));
  bytes.replace(new_end + 12, 4, little_endian(new_end - directory, 4));
  EXPECT_TRUE(checkpoint(bytes, "overlaps"));
  // A directory that gives a member another name.
  std::string renamed = zip_archive({{"a/data.pkl", "\x80\x02}."}, {"a/byteorder", "little"}});
  renamed.replace(renamed.rfind("a/byteorder"), 11, "a/data/1234");
  EXPECT_TRUE(checkpoint(renamed, "another name"));
}

TEST_F(BoundedReaders, SafetensorsHeadersTakeLinearTime) {
  std::string header = "{";
  for (int i = 0; i < 100000; ++i) {
    header += (i > 0 ? ",\"t" : "\"t") + std::to_string(i) + R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  }
  EXPECT_TRUE(safetensors(header + "}", ""));
  EXPECT_TRUE(
      safetensors(header + R"(,"t7":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})", "\"t7\" appears twice"));
  EXPECT_TRUE(safetensors(R"({"a":{"dtype":"U8","data_offsets":[0,0],"shape":[0)" + repeated(",0", 3000000) + "]}}",
                          "too many dimensions"));
  EXPECT_TRUE(safetensors(R"({"a":{"dtype":"U8","data_offsets":[0,0],"shape":[9223372036854775807,0,3]}})",
                          "too many dimensions or elements"));
  EXPECT_TRUE(safetensors(R"({"a":)" + std::string(100000, '[') + std::string(100000, ']') + "}", "nest deeper"));
}

TEST_F(BoundedReaders, JsonObjectsTakeLinearTime) {
  std::string members;
  for (int i = 0; i < 200000; ++i) {
    members += (i > 0 ? ",\"k" : "\"k") + std::to_string(i) + "\":{}";
  }
  EXPECT_TRUE(json("{" + members + "}", ""));
  EXPECT_TRUE(json("{" + members + ",\"k5\":1}", "\"k5\" appears twice"));
  EXPECT_TRUE(json("[{" + members + "}]", ""));
  EXPECT_TRUE(json(std::string(100000, '[') + std::string(100000, ']'), "nest deeper"));
  EXPECT_TRUE(json(repeated("{\"a\":", 100000) + "1" + std::string(100000, '}'), "nest deeper"));
  EXPECT_TRUE(json("[1e999]", "f.json"));
  EXPECT_TRUE(json("[" + std::string(1000000, '9') + "]", "f.json"));
}

TEST_F(BoundedReaders, ParsedJsonKeepsOrderAndValues) {
  write_bytes(path("f.json"), R"({"z":[1,-2,3.5,true,null,"ü"],"a":{"y":{},"b":[]},"m":18446744073709551615})");
  EXPECT_EQ(read_json_file(path("f.json")).dump(),
            R"({"z":[1,-2,3.5,true,null,"ü"],"a":{"y":{},"b":[]},"m":18446744073709551615})");
  write_bytes(path("f.json"), "7");
  EXPECT_EQ(read_json_file(path("f.json")), 7);
}

TEST_F(BoundedReaders, ManyAndLongUnknownKeysAreShownInPart) {
  nlohmann::ordered_json::object_t many;
  for (int i = 0; i < 100000; ++i) {
    many.emplace_back("key" + std::to_string(i), 1);
  }
  std::int64_t value = 0;
  const auto read = [&](const nlohmann::ordered_json& json) {
    JsonReader reader(json);
    for (int i = 0; i < 20; ++i) {
      reader.read("known_" + std::to_string(i), value);
    }
    reader.finish();
  };
  EXPECT_TRUE(bounded([&] { read(nlohmann::ordered_json(many)); }, "and 99900 more"));
  EXPECT_TRUE(bounded([&] { read({{std::string(3000000, 'k'), 1}}); }, "unknown key"));
  EXPECT_TRUE(bounded([&] { nearest_name(std::string(50000, 'a'), {std::string(50000, 'b')}); }, ""));
}

TEST_F(BoundedReaders, AnIndexOfManyTensorsTakesLinearTime) {
  std::string header = "{";
  std::string index = R"({"weight_map":{)";
  for (int i = 0; i < 50000; ++i) {
    const std::string name = (i > 0 ? ",\"t" : "\"t") + std::to_string(i);
    header += name + R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
    index += name + R"(":"f.safetensors")";
  }
  header += "}";
  write_bytes(path("f.safetensors"), little_endian(header.size(), 8) + header);
  write_bytes(path("model.safetensors.index.json"), index + "}}");
  EXPECT_TRUE(bounded([&] { EXPECT_EQ(TensorFolder(path("")).names().size(), 50000u); }, ""));
}

}  // namespace
}  // namespace moelora::io
