// Which folders are compared, and with which base.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/io/safetensors.h"
#include "moelora/verify/verify.h"
#include "support/shared.h"

namespace moelora::verify {
namespace {

namespace fs = std::filesystem;

TEST(Verify, TheBaseOfAnAdapterIsFoundAmongOtherModels) {
  testing::TemporaryFolder folder;
  fs::copy(testing::fixtures() / "lora-tiny", folder.path() / "lora-tiny", fs::copy_options::recursive);
  fs::copy(testing::fixtures() / "chatglm-tiny", folder.path() / "chatglm-tiny");
  const auto add = [&](const char* name, const char* key, const nlohmann::ordered_json& value) {
    fs::create_directories(folder.path() / name);
    std::ofstream(folder.path() / name / "golden.safetensors");
    nlohmann::ordered_json config{{"model_type", "chatglm"}};
    config[key] = value;
    io::write_json_file(folder.path() / name / "config.json", config);
  };
  add("quantised", "quantization_bit", 4);
  add("another", "model_type", "qwen2");
  const VerifyReport report = verify_folder(folder.path() / "lora-tiny");
  EXPECT_TRUE(report.passed()) << report.to_text();
}

TEST(Verify, TheBaseIsTheOneSiblingThatFits) {
  testing::TemporaryFolder folder;
  for (const char* name : {"chatglm-tiny", "lora-tiny"}) {
    fs::copy(testing::fixtures() / name, folder.path() / name, fs::copy_options::recursive);
  }
  fs::create_directory(folder.path() / "another-family");
  io::write_json_file(folder.path() / "another-family" / "config.json", {{"model_type", "qwen2"}});
  io::save_safetensors(folder.path() / "another-family" / "golden.safetensors", {{"base.0.logits", at::ones({2})}});
  EXPECT_TRUE(verify_folder(folder.path() / "lora-tiny").passed());
  fs::copy(folder.path() / "chatglm-tiny", folder.path() / "second", fs::copy_options::recursive);
  EXPECT_THROW(verify_folder(folder.path() / "lora-tiny"), Error) << "two that fit: it must be named";
}

TEST(Verify, ABaseBesideAModelsOwnGoldensIsSaidToBeOfNoUse) {
  VerifyOptions options;
  options.base = testing::fixtures() / "qwen2-tiny";
  const VerifyReport report = verify_folder(testing::fixtures() / "llama3-tiny", options);
  EXPECT_TRUE(report.passed()) << report.to_text();
  EXPECT_NE(report.to_text().find("skipped  --base " + options.base.string()), std::string::npos) << report.to_text();
}

TEST(Verify, AFolderWithNothingToCompareIsAnError) {
  testing::TemporaryFolder empty;
  EXPECT_THROW(verify_folder(empty.path()), Error);
  EXPECT_THROW(verify_folder(empty.path() / "absent"), Error);
}

}  // namespace
}  // namespace moelora::verify
