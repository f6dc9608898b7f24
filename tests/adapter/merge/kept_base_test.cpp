// Where the base's bytes are kept while an adapter is merged (MergeOptions::KeepBase).

#include <gtest/gtest.h>

#include "adapter/merge/merge_fixture.h"
#include "moelora/adapter/merge.h"

namespace moelora {
namespace {

using KeepBase = MergeOptions::KeepBase;
using Fixture = testing::MergeFixture;
using testing::error_of;

TEST(Merge, WithNothingKeptTheMergeIsFinal) {
  Fixture fixture;
  MergeOptions options;
  options.keep_base = KeepBase::none;
  merge_for_task(fixture.adapter, "a", options);
  EXPECT_TRUE(is_merged(fixture.adapter));
  EXPECT_FALSE(fixture.base_is_original());
  EXPECT_NE(error_of([&] { unmerge(fixture.adapter); }).find("load the base again"), std::string::npos);
  EXPECT_NE(error_of([&] { merge_for_task(fixture.adapter, "b"); }).find("load the base again"), std::string::npos);
}

TEST(Merge, RereadChecksBeforehandThatTheFileHasTheBasesBytes) {
  Fixture fixture;
  MergeOptions options;
  options.keep_base = KeepBase::reread;
  EXPECT_NE(error_of([&] { merge_for_task(fixture.adapter, "a", options); }).find("reread"), std::string::npos);
  options.reread = [&](const std::string& name) {
    const auto tensor = fixture.original.at(name);
    return name.find("mlp") == name.npos ? tensor : tensor + 1;
  };
  EXPECT_NE(error_of([&] { merge_for_task(fixture.adapter, "a", options); }).find("other values"), std::string::npos);
  EXPECT_FALSE(is_merged(fixture.adapter));
  EXPECT_TRUE(fixture.base_is_original());
  options.reread = [&](const std::string& name) -> at::Tensor {
    MOELORA_CHECK(name.find("mlp") == name.npos, "no such tensor");
    return fixture.original.at(name);
  };
  EXPECT_THROW(merge_for_task(fixture.adapter, "a", options), Error);
  EXPECT_TRUE(fixture.base_is_original());
  EXPECT_TRUE(fixture.adapter->enabled());
}

TEST(Merge, TheFileMayHaveAnotherDtypeThanTheBase) {
  Fixture fixture;
  for (auto& [name, tensor] : fixture.original) {
    const auto half = tensor.to(at::kHalf);
    fixture.base->named_parameters()[name].copy_(half);
    tensor = half.to(at::kFloat);
  }
  MergeOptions options;
  options.keep_base = KeepBase::reread;
  options.reread = [&](const std::string& name) { return fixture.original.at(name).to(at::kHalf); };
  merge_for_task(fixture.adapter, "a", options);
  unmerge(fixture.adapter);
  EXPECT_TRUE(fixture.base_is_original());
}

}  // namespace
}  // namespace moelora
