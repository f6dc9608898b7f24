#include "moelora/io/tensor_folder.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "io/raises.h"
#include "moelora/io/error.h"
#include "moelora/io/fingerprint.h"
#include "moelora/io/json_file.h"
#include "moelora/io/torch_checkpoint.h"
#include "support/shared.h"

namespace moelora::io {
namespace {

namespace fs = std::filesystem;

NamedTensors all_tensors_of(const TensorFolder& folder) {
  NamedTensors tensors;
  for (const std::string& name : folder.names()) {
    tensors.emplace_back(name, folder.tensor(name));
  }
  return tensors;
}

NamedTensors counted_tensors(int count) {
  NamedTensors tensors;
  for (int i = 0; i < count; ++i) {
    tensors.emplace_back("layer." + std::to_string(i), at::arange(i, i + 100, at::kFloat));
  }
  return tensors;
}

void copy_fixture(const char* name, const fs::path& to) {
  fs::copy_file(testing::fixtures() / "chatglm-tiny" / name, to / name);
}

std::vector<std::string> files_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

TEST(TensorFolder, ReadsTheSameValuesFromBinShardsAndSafetensors) {
  const testing::TemporaryFolder bins;
  copy_fixture("pytorch_model-00001-of-00002.bin", bins.path());
  copy_fixture("pytorch_model-00002-of-00002.bin", bins.path());
  copy_fixture("pytorch_model.bin.index.json", bins.path());
  const TensorFolder halves(bins.path());
  const TensorFolder floats(testing::fixtures() / "chatglm-tiny");
  ASSERT_EQ(halves.names().size(), floats.names().size());
  for (const std::string& name : floats.names()) {
    ASSERT_TRUE(halves.contains(name)) << name;
    const at::Tensor half = halves.tensor(name);
    EXPECT_EQ(half.scalar_type(), at::kHalf) << name;
    EXPECT_EQ(floats.tensor(name).scalar_type(), at::kFloat) << name;
    EXPECT_TRUE(at::equal(half.to(at::kFloat), floats.tensor(name))) << name;
  }
  EXPECT_EQ(fingerprint(all_tensors_of(halves)), fingerprint(all_tensors_of(floats)));
}

TEST(TensorFolder, GivesOwnedTensorsAlignedTo64Bytes) {
  const TensorFolder folder(testing::fixtures() / "chatglm-tiny");
  for (const std::string& name : folder.names()) {
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(folder.tensor(name).const_data_ptr()) % 64, 0u) << name;
  }
}

TEST(TensorFolder, ReadsASingleBinFile) {
  const TensorFolder folder(testing::fixtures() / "ptuning-tiny");
  ASSERT_EQ(folder.names().size(), 1u);
  const auto reference = load_safetensors(testing::fixtures() / "ptuning-tiny" / "prefix_encoder.safetensors");
  ASSERT_EQ(reference.size(), 1u);
  EXPECT_TRUE(at::equal(folder.tensor(folder.names()[0]), reference.begin()->second));
}

TEST(TensorFolder, SaysWhatIsMissing) {
  const testing::TemporaryFolder folder;
  EXPECT_TRUE(raises([&] { TensorFolder(folder.path() / "nowhere"); }, "nothing at"));
  EXPECT_TRUE(raises([&] { TensorFolder{folder.path()}; }, "no weights in"));
  copy_fixture("pytorch_model.bin.index.json", folder.path());
  copy_fixture("pytorch_model-00001-of-00002.bin", folder.path());
  EXPECT_TRUE(raises([&] { TensorFolder{folder.path()}; }, "pytorch_model-00002-of-00002.bin, which is missing"));
  const TensorFolder tiny(testing::fixtures() / "chatglm-tiny");
  EXPECT_TRUE(raises([&] { tiny.tensor("no.such"); }, "holds no tensor \"no.such\""));
}

TEST(TensorFolder, NamesATensorThatTheIndexPromisesInVain) {
  const testing::TemporaryFolder folder;
  save_tensor_folder(folder.path(), counted_tensors(4), 800);
  auto index = read_json_file(folder.path() / "model.safetensors.index.json");
  index["weight_map"]["ghost"] = "model-00002-of-00002.safetensors";
  write_json_file(folder.path() / "model.safetensors.index.json", index);
  EXPECT_TRUE(raises([&] { TensorFolder{folder.path()}; }, "lacks the tensor \"ghost\""));
}

TEST(TensorFolder, RefusesAnIndexThatLeavesItsFolder) {
  for (const char* shard : {"../x.safetensors", "/etc/passwd", "a/b.bin", "..", "", "a\\\\b"}) {
    const testing::TemporaryFolder folder;
    std::ofstream(folder.path() / "model.safetensors.index.json") << R"({"weight_map": {"w": ")" << shard << "\"}}";
    EXPECT_TRUE(raises([&] { TensorFolder{folder.path()}; }, "expected a plain file name")) << shard;
  }
}

TEST(TensorFolder, RefusesAnIndexWithoutAMap) {
  for (const char* text : {"[]", "{}", R"({"weight_map": []})", R"({"weight_map": {}})", R"({"weight_map": {"a": 1}})",
                           R"({"weight_map": )"}) {
    const testing::TemporaryFolder folder;
    std::ofstream(folder.path() / "model.safetensors.index.json") << text;
    EXPECT_TRUE(raises([&] { TensorFolder{folder.path()}; }, "model.safetensors.index.json")) << text;
  }
}

/// fp16 values of more than one block of a file, at both ends of the type.
at::Tensor large_halves() { return at::arange(0, 5'000'011, at::kInt).remainder(60013).sub_(30000).to(at::kHalf); }

/// Resident memory that belongs to mapped files, in bytes.
std::int64_t resident_file_bytes() {
  std::ifstream stream("/proc/self/status");
  for (std::string word; stream >> word;) {
    if (std::int64_t kibibytes = 0; word == "RssFile:" && stream >> kibibytes) {
      return kibibytes * 1024;
    }
  }
  return 0;
}

TEST(TensorFolder, ConvertsWhileItReadsAndGivesThePagesBack) {
  const testing::TemporaryFolder folder;
  const at::Tensor halves = large_halves();
  save_tensor_folder(folder.path(), {{"byte", at::ones({3}, at::kByte)}, {"w", halves.view({1, -1})}});
  const TensorFolder read(folder.path());
  EXPECT_EQ(read.info("w").dtype, at::kHalf);
  EXPECT_EQ(read.info("w").shape, (std::vector<std::int64_t>{1, halves.numel()}));
  EXPECT_TRUE(raises([&] { read.info("v"); }, "holds no tensor \"v\""));
  const std::int64_t before = resident_file_bytes();
  EXPECT_TRUE(at::equal(read.tensor("w").view({-1}), halves));
  EXPECT_LT(resident_file_bytes() - before, std::int64_t{4} << 20);  // of 10 MB
  for (const auto dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
    const at::Tensor converted = read.tensor("w", dtype);
    EXPECT_EQ(converted.scalar_type(), dtype);
    EXPECT_TRUE(at::equal(converted.view({-1}), halves.to(dtype)));
  }
  const TensorFolder bins(testing::fixtures() / "chatglm-tiny");
  const std::string& name = bins.names().front();
  EXPECT_TRUE(at::equal(bins.tensor(name, at::kHalf), bins.tensor(name).to(at::kHalf)));
}

TEST(TensorFolder, ComparesTensorsByTheirBytes) {
  const testing::TemporaryFolder folder;
  const at::Tensor halves = large_halves();
  at::Tensor last_differs = halves.clone();
  last_differs[-1] = 1.0;
  const at::Tensor not_a_number = at::full({3}, std::numeric_limits<float>::quiet_NaN());
  save_tensor_folder(folder.path(),
                     {{"a", halves},
                      {"b", halves.clone()},
                      {"c", last_differs},
                      {"d", halves.view({1, -1})},
                      {"e", halves.to(at::kBFloat16)},
                      {"f", not_a_number},
                      {"g", not_a_number.clone()}},
                     1 << 23);
  const TensorFolder read(folder.path());
  EXPECT_TRUE(read.same_bytes("a", "b"));
  EXPECT_TRUE(read.same_bytes("f", "g"));
  for (const char* other : {"c", "d", "e", "f"}) {
    EXPECT_FALSE(read.same_bytes("a", other)) << other;
  }
}

TEST(SaveTensorFolder, WritesOneFileWhenItFits) {
  const testing::TemporaryFolder folder;
  const NamedTensors tensors = counted_tensors(3);
  save_tensor_folder(folder.path() / "new", tensors);
  EXPECT_EQ(files_in(folder.path() / "new"), std::vector<std::string>{"model.safetensors"});
  const TensorFolder read(folder.path() / "new");
  for (const auto& [name, tensor] : tensors) {
    EXPECT_TRUE(at::equal(read.tensor(name), tensor)) << name;
  }
  // Python's transformers refuses a file without this note.
  EXPECT_EQ(SafetensorsFile(folder.path() / "new" / "model.safetensors").metadata().at("format"), "pt");
}

TEST(SaveTensorFolder, WritesShardsWithAnIndexLikeHuggingFace) {
  const testing::TemporaryFolder folder;
  const NamedTensors tensors = counted_tensors(5);  // 400 bytes each
  save_tensor_folder(folder.path(), tensors, 1000);
  const std::vector<std::string> expected{"model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
                                          "model-00003-of-00003.safetensors", "model.safetensors.index.json"};
  EXPECT_EQ(files_in(folder.path()), expected);
  const auto index = read_json_file(folder.path() / "model.safetensors.index.json");
  EXPECT_EQ(index["metadata"]["total_size"], 2000);
  EXPECT_EQ(index["weight_map"]["layer.4"], "model-00003-of-00003.safetensors");
  const TensorFolder read(folder.path());
  EXPECT_EQ(fingerprint(all_tensors_of(read)), fingerprint(tensors));
}

TEST(SaveTensorFolder, PutsATensorLargerThanTheLimitIntoAShardOfItsOwn) {
  const testing::TemporaryFolder folder;
  save_tensor_folder(folder.path(), counted_tensors(3), 1);
  EXPECT_EQ(files_in(folder.path()).size(), 4u);
}

TEST(SaveTensorFolder, RemovesItsEarlierWeightsAndNothingElse) {
  const testing::TemporaryFolder folder;
  std::ofstream(folder.path() / "config.json") << "{}";
  std::ofstream(folder.path() / "model-notes.safetensors") << "mine";
  save_tensor_folder(folder.path(), counted_tensors(5), 1000);
  const NamedTensors later = counted_tensors(2);
  save_tensor_folder(folder.path(), later);
  const std::vector<std::string> single{"config.json", "model-notes.safetensors", "model.safetensors"};
  EXPECT_EQ(files_in(folder.path()), single);
  EXPECT_EQ(TensorFolder(folder.path()).names().size(), 2u);
  save_tensor_folder(folder.path(), counted_tensors(4), 800);
  const std::vector<std::string> sharded{"config.json", "model-00001-of-00002.safetensors",
                                         "model-00002-of-00002.safetensors", "model-notes.safetensors",
                                         "model.safetensors.index.json"};
  EXPECT_EQ(files_in(folder.path()), sharded);
  save_tensor_folder(folder.path(), counted_tensors(3), 800);  // the same file names again
  EXPECT_EQ(TensorFolder(folder.path()).names().size(), 3u);
}

TEST(SaveTensorFolder, RefusesANameGivenTwice) {
  const testing::TemporaryFolder folder;
  NamedTensors tensors = counted_tensors(2);
  tensors.push_back(tensors[0]);
  EXPECT_TRUE(raises([&] { save_tensor_folder(folder.path(), tensors, 400); }, "given twice"));
  EXPECT_TRUE(files_in(folder.path()).empty());
}

TEST(TensorFolder, TakesOffWhatWrappersLeaveInNames) {
  for (const std::string before :
       {"module.", "_orig_mod.", "module._orig_mod.", "base_model.model.", "module.module."}) {
    const testing::TemporaryFolder folder;
    NamedTensors tensors;
    for (const auto& [name, tensor] : counted_tensors(4)) {
      tensors.emplace_back(before + name, tensor);
    }
    save_tensor_folder(folder.path(), tensors, /*max_shard_bytes=*/500);  // with an index
    const TensorFolder opened(folder.path());
    ASSERT_EQ(opened.names().size(), 4u);
    for (const auto& [name, tensor] : counted_tensors(4)) {
      EXPECT_TRUE(at::equal(opened.tensor(name), tensor)) << name;
      EXPECT_TRUE(at::equal(opened.piece(name, 10, 5), tensor.narrow(0, 10, 5))) << name;
    }
  }
}

TEST(TensorFolder, ATensorUnderTwoNamesAndAFileWithoutTensorsAreErrors) {
  const testing::TemporaryFolder folder;
  save_safetensors(folder.path() / "model.safetensors",
                   {{"layer.0", at::ones({2})}, {"module.layer.0", at::ones({2})}});
  EXPECT_TRUE(raises([&] { TensorFolder opened(folder.path()); }, "one tensor twice"));
  save_safetensors(folder.path() / "model.safetensors", {});
  EXPECT_TRUE(raises([&] { TensorFolder opened(folder.path()); }, "holds no tensors"));
}

TEST(TensorFolder, APrefixIsDroppedOnlyFromAllNames) {
  const testing::TemporaryFolder folder;
  save_safetensors(folder.path() / "model.safetensors", {{"model.a", at::ones({2})}, {"model.b", at::ones({3})}});
  TensorFolder opened(folder.path());
  EXPECT_FALSE(opened.drop_prefix("model.a"));
  EXPECT_TRUE(opened.drop_prefix("model."));
  EXPECT_EQ(opened.names(), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(opened.tensor("b").size(0), 3);
  EXPECT_FALSE(opened.contains("model.a"));
}

TEST(TensorFolder, ItsFormsAreComparedByValue) {
  const testing::TemporaryFolder folder;
  for (const char* name : {"pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin",
                           "pytorch_model.bin.index.json", "model.safetensors"}) {
    copy_fixture(name, folder.path());
  }
  EXPECT_EQ(TensorFolder::forms(folder.path()),
            (std::vector<std::string>{"model.safetensors", "pytorch_model.bin.index.json"}));
  {
    const TensorFolder floats(folder.path());
    const TensorFolder halves(folder.path(), "pytorch_model.bin.index.json");
    EXPECT_EQ(floats.form(), "model.safetensors");
    EXPECT_TRUE(differing_tensors(floats, halves, floats.names()).empty());
  }
  auto tensors = load_safetensors(folder.path() / "model.safetensors");
  tensors.at("transformer.final_layernorm.bias")[7] += 1;
  tensors.erase("transformer.final_layernorm.weight");
  save_safetensors(folder.path() / "model.safetensors", {tensors.begin(), tensors.end()});
  const TensorFolder floats(folder.path());
  const TensorFolder halves(folder.path(), "pytorch_model.bin.index.json");
  EXPECT_EQ(differing_tensors(floats, halves, halves.names()),
            (std::vector<std::string>{"transformer.final_layernorm.bias", "transformer.final_layernorm.weight"}));
}

TEST(TensorFolder, LargeTensorsAreComparedAtThreePlaces) {
  const testing::TemporaryFolder a;
  const testing::TemporaryFolder b;
  at::Tensor large = at::full({3, 500000}, 2.0);
  save_safetensors(a.path() / "model.safetensors", {{"large", large}});
  for (const std::int64_t at : {std::int64_t{0}, std::int64_t{750000}, std::int64_t{1499999}}) {
    at::Tensor changed = large.clone();
    changed.view({-1})[at] += 1;
    save_safetensors(b.path() / "model.safetensors", {{"large", changed}});
    EXPECT_EQ(differing_tensors(TensorFolder(a.path()), TensorFolder(b.path()), {"large"}).size(), 1u) << at;
  }
}

}  // namespace
}  // namespace moelora::io
