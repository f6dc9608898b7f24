#include "moelora/io/gguf.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <iterator>

#include "io/damage.h"
#include "io/raises.h"
#include "support/shared.h"

namespace moelora::io {
namespace {

class GgufTest : public ::testing::Test {
 protected:
  std::filesystem::path path() const { return folder_.path() / "f.gguf"; }
  std::string bytes() const {
    std::ifstream file(path(), std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

 private:
  moelora::testing::TemporaryFolder folder_;
};

template <typename Number>
std::string little_endian(Number value) {
  std::string bytes(sizeof(value), '\0');
  std::memcpy(bytes.data(), &value, sizeof(value));
  return bytes;
}
std::string text(const std::string& value) { return little_endian<std::uint64_t>(value.size()) + value; }

TEST_F(GgufTest, WritesTheFormatByteForByte) {
  save_gguf(path(), {{"general.architecture", std::string("toy")}, {"x", 0.5F}, {"n", std::uint32_t{7}}},
            {{"w", at::arange(6, at::kFloat).reshape({2, 3})}, {"h", at::ones({1}, at::kHalf)}});
  std::string expected =
      "GGUF" + little_endian<std::uint32_t>(3) + little_endian<std::uint64_t>(2) + little_endian<std::uint64_t>(3);
  expected += text("general.architecture") + little_endian<std::uint32_t>(8) + text("toy");
  expected += text("x") + little_endian<std::uint32_t>(6) + little_endian(0.5F);
  expected += text("n") + little_endian<std::uint32_t>(4) + little_endian<std::uint32_t>(7);
  expected += text("w") + little_endian<std::uint32_t>(2) + little_endian<std::uint64_t>(3) +
              little_endian<std::uint64_t>(2) + little_endian<std::uint32_t>(0) + little_endian<std::uint64_t>(0);
  expected += text("h") + little_endian<std::uint32_t>(1) + little_endian<std::uint64_t>(1) +
              little_endian<std::uint32_t>(1) + little_endian<std::uint64_t>(32);
  expected.resize((expected.size() + 31) / 32 * 32, '\0');
  for (const float value : {0.F, 1.F, 2.F, 3.F, 4.F, 5.F}) {
    expected += little_endian(value);
  }
  expected.resize((expected.size() + 31) / 32 * 32, '\0');
  expected += std::string("\x00\x3c", 2);
  expected.resize((expected.size() + 31) / 32 * 32, '\0');
  EXPECT_EQ(bytes(), expected);
}

TEST_F(GgufTest, ReadsBackEveryTypeAndShape) {
  const NamedTensors tensors{{"f", at::arange(24, at::kFloat).reshape({2, 3, 4})},
                             {"h", at::arange(5, at::kHalf)},
                             {"b", at::arange(12, at::kBFloat16).reshape({1, 1, 3, 4})},
                             {"t", at::arange(12, at::kFloat).reshape({3, 4}).t()}};
  save_gguf(path(), {{"名", std::string("值")}, {"a", -1.5F}}, tensors);
  const GgufFile file(path());
  EXPECT_EQ(file.text("名"), "值");
  EXPECT_EQ(file.number("a"), -1.5F);
  ASSERT_EQ(file.entries().size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    EXPECT_TRUE(at::equal(file.tensor(name), tensor)) << name;
    EXPECT_EQ(file.entries().at(name).shape, tensor.sizes().vec());
    EXPECT_EQ(file.entries().at(name).begin % 32, 0U);
  }
  EXPECT_TRUE(raises([&] { file.tensor("x"); }, "no tensor \"x\""));
  EXPECT_TRUE(raises([&] { file.text("a"); }, "another type"));
  EXPECT_TRUE(raises([&] { file.number("b"); }, "found none"));
}

TEST_F(GgufTest, PassesOverValuesThatItDoesNotKeep) {
  const std::string strings = little_endian<std::uint32_t>(9) + little_endian<std::uint32_t>(8) +
                              little_endian<std::uint64_t>(2) + text("one") + text("");
  const std::string numbers = little_endian<std::uint32_t>(9) + little_endian<std::uint32_t>(5) +
                              little_endian<std::uint64_t>(3) + std::string(12, 'x');
  const std::string truth = little_endian<std::uint32_t>(7) + std::string(1, '\1');
  const std::string wide = little_endian<std::uint32_t>(10) + std::string(8, 'y');
  const std::string kept = little_endian<std::uint32_t>(8) + text("kept");
  write_bytes(path(), "GGUF" + little_endian<std::uint32_t>(3) + little_endian<std::uint64_t>(0) +
                          little_endian<std::uint64_t>(5) + text("s") + strings + text("n") + numbers + text("t") +
                          truth + text("w") + wide + text("k") + kept);
  const GgufFile file(path());
  EXPECT_EQ(file.metadata().size(), 1U);
  EXPECT_EQ(file.text("k"), "kept");
}

TEST_F(GgufTest, WhatTheFormatCanNotHoldIsAnError) {
  const auto refused = [&](const NamedTensors& tensors, const std::string& part) {
    return raises([&] { save_gguf(path(), {}, tensors); }, part);
  };
  EXPECT_TRUE(refused({{"w", at::zeros({2}, at::kDouble)}}, "float64") ||
              refused({{"w", at::zeros({2}, at::kDouble)}}, "Double"));
  EXPECT_TRUE(refused({{"w", at::zeros({1, 1, 1, 1, 1})}}, "1 to 4 dimensions"));
  EXPECT_TRUE(refused({{"w", at::zeros({})}}, "1 to 4 dimensions"));
  EXPECT_TRUE(refused({{"w", at::zeros({0, 3})}}, "an element"));
  EXPECT_TRUE(refused({{std::string(64, 'w'), at::zeros({1})}}, "63 bytes"));
  EXPECT_TRUE(refused({{"w", at::zeros({1})}, {"w", at::zeros({1})}}, "twice"));
  EXPECT_FALSE(std::filesystem::exists(path()));
  save_gguf(path(), {}, {{std::string(63, 'w'), at::zeros({1})}});
  EXPECT_TRUE(GgufFile(path()).entries().contains(std::string(63, 'w')));
}

TEST_F(GgufTest, DamagedFilesAreErrors) {
  save_gguf(path(), {{"general.architecture", std::string("toy")}, {"a", 1.0F}},
            {{"w", at::ones({4, 5})}, {"v", at::ones({3}, at::kHalf)}});
  const std::string whole = bytes();
  const auto load = [&] {
    const GgufFile file(path());
    for (const auto& [name, info] : file.entries()) {
      file.tensor(name);
    }
  };
  EXPECT_NO_THROW(load());
  const DamageReport flips = flip_every_bit(path(), 0, whole.size() - 96 - 32, load);
  EXPECT_GT(flips.refused, 100);
  const std::size_t last_byte = whole.size() - 32 + 6;  // the padding behind the last tensor may be missing
  DamageReport cuts;
  for (std::size_t size = 1; size < last_byte; ++size) {
    write_bytes(path(), whole.substr(0, size));
    try_load(load, "cut at " + std::to_string(size), cuts);
  }
  EXPECT_EQ(cuts.loaded, 0);
  write_bytes(path(), whole.substr(0, last_byte));
  EXPECT_NO_THROW(load());
  write_bytes(path(), "GGML" + whole.substr(4));
  EXPECT_TRUE(raises(load, "no GGUF file"));
  write_bytes(path(), whole.substr(0, 4) + little_endian<std::uint32_t>(2) + whole.substr(8));
  EXPECT_TRUE(raises(load, "version 3"));
  write_bytes(path(), whole.substr(0, 8) + little_endian<std::uint64_t>(1ULL << 60) + whole.substr(16));
  EXPECT_TRUE(raises(load, "more than its"));
}

}  // namespace
}  // namespace moelora::io
