#include "moelora/adapter/adapter_file.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <cstring>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "adapter/tiny_base.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/io/sha256.h"

namespace moelora {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

MoeLoraConfig small_config() {
  MoeLoraConfig config;
  config.rank = 4;
  config.num_experts = 2;
  config.gate.task_embedding_dim = 6;
  config.seed = 5;
  return config;
}

Adapter filled_adapter(torch::nn::Module& base, const MoeLoraConfig& config, const std::string& name = "default") {
  Adapter adapter = inject(base, config, TaskNames({"CMeIE", "MedDG", "问答"}), name);
  at::NoGradGuard no_grad;
  for (const auto& linear : adapter->linears()) {
    linear.delta->tensor("B").normal_();
  }
  return adapter;
}

std::string bytes_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void write_bytes(const fs::path& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

std::string load_error(const fs::path& folder, const std::string& base_print = {}, const std::string& tokenizer = {}) {
  auto base = testing::tiny_base(1, 8);
  try {
    load_adapter(*base, folder, base_print, tokenizer);
  } catch (const Error& error) {
    for (const auto& module : base->modules()) {
      if (const auto linear = std::dynamic_pointer_cast<nn::LinearImpl>(module)) {
        EXPECT_EQ(linear->delta("default"), nullptr) << "the base keeps a delta after: " << error.what();
        EXPECT_TRUE(linear->weight.requires_grad()) << "the base stays frozen after: " << error.what();
      }
    }
    return error.what();
  }
  return "no error";
}

/// A saved adapter to damage.
class AdapterFile : public ::testing::Test {
 protected:
  void SetUp() override {
    base_ = testing::tiny_base(1, 8);
    adapter_ = filled_adapter(*base_, small_config());
    save_adapter(*adapter_, folder_, "base-print", "tokenizer-print", {{"command", "test"}, {"seed", 5}});
  }
  /// Changes adapter.json and gives it a right checksum again.
  void rewrite(const std::function<void(ordered_json&)>& change) {
    ordered_json json = io::read_json_file(folder_ / "adapter.json");
    change(json);
    json.erase("checksum");
    json["checksum"] = io::sha256_of(json.dump());
    io::write_json_file(folder_ / "adapter.json", json);
  }
  /// Changes the tensors and gives the folder right checksums again.
  void rewrite_tensors(const std::function<void(std::map<std::string, at::Tensor>&)>& change) {
    auto tensors = io::load_safetensors(folder_ / "adapter.safetensors");
    change(tensors);
    io::save_safetensors(folder_ / "adapter.safetensors", {tensors.begin(), tensors.end()});
    rewrite([&](ordered_json& json) { json["tensors_sha256"] = io::sha256_of_file(folder_ / "adapter.safetensors"); });
  }

  testing::TemporaryFolder temporary_;
  fs::path folder_ = temporary_.path() / "adapter";
  std::shared_ptr<torch::nn::Module> base_;
  Adapter adapter_{nullptr};
};

void expect_same_adapter(const AdapterImpl& a, const AdapterImpl& b) {
  EXPECT_EQ(a.config().to_json(), b.config().to_json());
  EXPECT_EQ(a.tasks().names(), b.tasks().names());
  const auto left = adapter_tensors(a);
  const auto right = adapter_tensors(b);
  ASSERT_EQ(left.size(), right.size());
  for (std::size_t i = 0; i < left.size(); ++i) {
    EXPECT_EQ(left[i].first, right[i].first);
    ASSERT_EQ(left[i].second.sizes(), right[i].second.sizes());
    EXPECT_EQ(std::memcmp(left[i].second.data_ptr(), right[i].second.data_ptr(), left[i].second.nbytes()), 0)
        << left[i].first;
  }
}

TEST_F(AdapterFile, ComesBackBitForBit) {
  auto base = testing::tiny_base(1, 8);
  const Adapter loaded = load_adapter(*base, folder_, "base-print", "tokenizer-print");
  expect_same_adapter(*adapter_, *loaded);
  EXPECT_TRUE(loaded->enabled());
  const auto info = read_adapter_info(folder_);
  EXPECT_EQ(info.base_fingerprint, "base-print");
  EXPECT_EQ(info.tokenizer_fingerprint, "tokenizer-print");
  EXPECT_EQ(info.tasks.name(2), "问答");
  EXPECT_TRUE(is_adapter_folder(folder_));
  EXPECT_EQ(io::read_json_file(folder_ / "adapter.json")["provenance"]["seed"], 5);
}

TEST_F(AdapterFile, EveryVariantComesBack) {
  for (int variant = 0; variant < 4; ++variant) {
    MoeLoraConfig config = small_config();
    config.gate.per_linear = variant == 0;
    config.routing = variant == 1 ? Routing::uniform : Routing::task;
    config.num_experts = variant == 2 ? 1 : 2;
    config.gate.reserved_rows = variant == 3 ? 1 : 0;
    auto base = testing::tiny_base(1, 8);
    const Adapter adapter = filled_adapter(*base, config);
    save_adapter(*adapter, folder_, "", "", nullptr);
    auto other = testing::tiny_base(1, 8);
    expect_same_adapter(*adapter, *load_adapter(*other, folder_, "any", "any"));
  }
}

TEST_F(AdapterFile, TensorsHaveTheDocumentedNames) {
  const auto tensors = io::load_safetensors(folder_ / "adapter.safetensors");
  EXPECT_EQ(tensors.at("linears.transformer.layers.0.mlp.dense_4h_to_h.A").sizes(), (std::vector<std::int64_t>{4, 32}));
  EXPECT_EQ(tensors.at("linears.transformer.layers.0.mlp.dense_4h_to_h.B").sizes(), (std::vector<std::int64_t>{8, 4}));
  EXPECT_EQ(tensors.at("gate.task_embedding").sizes(), (std::vector<std::int64_t>{3, 6}));
  EXPECT_EQ(tensors.at("gate.weight").sizes(), (std::vector<std::int64_t>{2, 6}));
}

TEST_F(AdapterFile, AFlippedBitInTheDescriptionIsFoundWhereverItIs) {
  const std::string whole = bytes_of(folder_ / "adapter.json");
  const auto good = io::read_json_file(folder_ / "adapter.json");
  for (std::size_t i = 0; i < whole.size(); ++i) {
    std::string damaged = whole;
    damaged[i] = static_cast<char>(damaged[i] ^ (1 << (i % 8)));
    write_bytes(folder_ / "adapter.json", damaged);
    try {
      read_adapter_info(folder_);
      // Only blanks between values may change unnoticed, because they mean nothing.
      EXPECT_EQ(io::read_json_file(folder_ / "adapter.json"), good) << "byte " << i;
    } catch (const Error&) {
    }
  }
}

TEST_F(AdapterFile, AFlippedBitInTheTensorsIsFoundWhereverItIs) {
  const std::string whole = bytes_of(folder_ / "adapter.safetensors");
  for (std::size_t i = 0; i < whole.size(); i += whole.size() / 40) {
    std::string damaged = whole;
    damaged[i] = static_cast<char>(damaged[i] ^ (1 << (i % 8)));
    write_bytes(folder_ / "adapter.safetensors", damaged);
    EXPECT_NE(load_error(folder_).find("is damaged: expected SHA-256"), std::string::npos) << "byte " << i;
  }
}

TEST_F(AdapterFile, CutOffAndAbsentFilesAreErrors) {
  const std::string json = bytes_of(folder_ / "adapter.json");
  const std::string tensors = bytes_of(folder_ / "adapter.safetensors");
  write_bytes(folder_ / "adapter.safetensors", tensors.substr(0, tensors.size() / 2));
  EXPECT_NE(load_error(folder_).find("is damaged"), std::string::npos);
  fs::remove(folder_ / "adapter.safetensors");
  EXPECT_NE(load_error(folder_).find("expected"), std::string::npos);
  for (const std::size_t length : {std::size_t{0}, std::size_t{1}, json.size() / 2, json.size() - 3}) {
    write_bytes(folder_ / "adapter.json", json.substr(0, length));
    EXPECT_NE(load_error(folder_), "no error") << length;
  }
  fs::remove(folder_ / "adapter.json");
  EXPECT_FALSE(is_adapter_folder(folder_));
  EXPECT_NE(load_error(folder_).find("expected an adapter folder"), std::string::npos);
  EXPECT_NE(load_error(temporary_.path() / "nowhere").find("no adapter folder"), std::string::npos);
}

TEST_F(AdapterFile, MissingUnexpectedAndMisshapenTensorsAreNamedTogether) {
  rewrite_tensors([](auto& tensors) {
    tensors.erase("gate.weight");
    tensors["linears.transformer.layers.0.mlp.dense_h_to_4h.C"] = at::zeros({1});
    tensors["linears.transformer.layers.0.attention.dense.A"] = at::zeros({4, 7});
    auto& mistyped = tensors["linears.transformer.layers.0.attention.dense.B"];
    mistyped = mistyped.to(at::kHalf);
  });
  const auto text = load_error(folder_);
  for (const auto* part : {"missing: gate.weight", "unexpected: linears.transformer.layers.0.mlp.dense_h_to_4h.C",
                           "attention.dense.A: expected Float [4, 8], found Float [4, 7]",
                           "attention.dense.B: expected Float [8, 4], found Half [8, 4]"}) {
    EXPECT_NE(text.find(part), text.npos) << part << " in " << text;
  }
}

TEST_F(AdapterFile, AnotherBaseOrTokenizerIsAnError) {
  EXPECT_NE(load_error(folder_, "other").find("another base"), std::string::npos);
  EXPECT_NE(load_error(folder_, "base-print", "other").find("another tokenizer"), std::string::npos);
  EXPECT_EQ(load_error(folder_, "base-print", "tokenizer-print"), "no error");
  EXPECT_EQ(load_error(folder_), "no error");
}

TEST_F(AdapterFile, ABaseOfAnotherShapeIsAnError) {
  auto base = testing::tiny_base(2, 8);
  try {
    load_adapter(*base, folder_, "", "");
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("missing: linears.transformer.layers.1"), std::string::npos)
        << error.what();
  }
}

TEST_F(AdapterFile, AnotherFormatOrVersionIsAnError) {
  rewrite([](ordered_json& json) { json["format_version"] = 2; });
  EXPECT_NE(load_error(folder_).find("expected format version 1, found 2"), std::string::npos);
  rewrite([](ordered_json& json) { json["format"] = "other"; });
  EXPECT_NE(load_error(folder_).find("expected \"format\""), std::string::npos);
}

TEST_F(AdapterFile, AKeyOfALaterVersionIsIgnoredOnlyIfTheWriterSaysSo) {
  rewrite([](ordered_json& json) { json["notes"] = "later"; });
  EXPECT_NE(load_error(folder_).find("notes"), std::string::npos);
  rewrite([](ordered_json& json) { json["optional"] = {"notes"}; });
  EXPECT_EQ(load_error(folder_), "no error");
  // What every reader needs can't be declared optional.
  rewrite([](ordered_json& json) {
    json["optional"] = {"notes", "config"};
    json.erase("config");
  });
  EXPECT_NE(load_error(folder_).find("config"), std::string::npos);
}

TEST_F(AdapterFile, WrongValuesInTheDescriptionAreErrors) {
  rewrite([](ordered_json& json) { json["config"]["rank"] = 5; });
  EXPECT_NE(load_error(folder_).find("rank"), std::string::npos);
  rewrite([](ordered_json& json) {
    json["config"]["rank"] = 4;
    json["tasks"] = {"a", "a", "b"};
  });
  EXPECT_NE(load_error(folder_).find("both named 'a'"), std::string::npos);
  rewrite([](ordered_json& json) { json["tasks"] = "a"; });
  EXPECT_NE(load_error(folder_).find("tasks"), std::string::npos);
}

TEST_F(AdapterFile, SavingReplacesAnOlderAdapterButNothingElse) {
  save_adapter(*adapter_, folder_, "new", "", nullptr);
  EXPECT_EQ(read_adapter_info(folder_).base_fingerprint, "new");
  write_bytes(folder_ / "notes.txt", "mine");
  EXPECT_THROW(save_adapter(*adapter_, folder_, "newer", "", nullptr), Error);
  EXPECT_EQ(bytes_of(folder_ / "notes.txt"), "mine");
  EXPECT_EQ(read_adapter_info(folder_).base_fingerprint, "new");
}

TEST_F(AdapterFile, ASaveThatFailsHalfWayLeavesTheOlderAdapter) {
  const std::string before = bytes_of(folder_ / "adapter.json");
  rlimit old{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  const auto handler = signal(SIGXFSZ, SIG_IGN);
  rlimit small = old;
  small.rlim_cur = 600;  // bytes: the tensors' file does not fit, as on a full disk
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  bool failed = false;
  try {
    save_adapter(*adapter_, folder_, "new", "", nullptr);
  } catch (const Error&) {
    failed = true;
  }
  setrlimit(RLIMIT_FSIZE, &old);
  signal(SIGXFSZ, handler);
  EXPECT_TRUE(failed);
  EXPECT_EQ(bytes_of(folder_ / "adapter.json"), before);
  EXPECT_EQ(load_error(folder_), "no error");
  std::size_t entries = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator(temporary_.path())) {
    ++entries;
  }
  EXPECT_EQ(entries, 1u) << "temporary files were left";
}

TEST_F(AdapterFile, IsWrittenWithoutNamingAProvenance) {
  save_adapter(*adapter_, folder_, "base-print");
  const ordered_json json = io::read_json_file(folder_ / "adapter.json");
  EXPECT_EQ(json["base_fingerprint"], "base-print");
  EXPECT_EQ(json["tokenizer_fingerprint"], "");
  EXPECT_TRUE(json["provenance"].contains("version") && json["provenance"].contains("time_utc"));
  auto base = testing::tiny_base(1, 8);
  Adapter loaded = load_adapter(*base, folder_, "base-print");
  EXPECT_TRUE(at::equal(loaded->linears().front().delta->tensor("B"), adapter_->linears().front().delta->tensor("B")));
}

}  // namespace
}  // namespace moelora
