#include "moelora/io/file_kind.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "io/damage.h"
#include "io/raises.h"
#include "moelora/io/json_file.h"
#include "support/shared.h"

namespace moelora::io {
namespace {

constexpr const char* kPointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4a4a\nsize 41234567\n";

TEST(FileKind, IsToldByTheBeginning) {
  const auto is = [](const std::string& bytes, const std::string& part) {
    return kind_of_file(bytes).find(part) != std::string::npos;
  };
  EXPECT_TRUE(is("input,target\na,b\n", "a CSV file (its first line: input,target)"));
  EXPECT_TRUE(is("\xef\xbb\xbf\"input\",\"target\"\r\n", "a CSV file"));
  EXPECT_TRUE(is("问题;答案\n", "a CSV file"));
  EXPECT_TRUE(is("input\ttarget\n", "columns divided by tabs"));
  EXPECT_TRUE(is("PK\x03\x04rest", "a zip archive"));
  EXPECT_TRUE(is("\x1f\x8b\x08", "gunzip"));
  EXPECT_TRUE(is("PAR1xxxx", "a Parquet file"));
  EXPECT_TRUE(is("\n<!DOCTYPE html>", "an HTML"));
  EXPECT_TRUE(is("model:\n  path: x\n", "a YAML file"));
  EXPECT_TRUE(is(std::string("\x20\0\0\0\0\0\0\0{\"a\":", 13), "a safetensors file"));
  for (const char* json : {"{\"a\": 1, \"b\": 2}", " [1, 2]", "// a, comment\n{}", "", "plain words"}) {
    EXPECT_EQ(kind_of_file(json), "") << json;
  }
}

TEST(FileKind, ALfsPointerIsNamedWithWhatToDo) {
  const testing::TemporaryFolder folder;
  write_bytes(folder.path() / "f", kPointer);
  EXPECT_TRUE(raises([&] { read_text_file(folder.path() / "f"); }, "f is a Git LFS pointer"));
  EXPECT_TRUE(raises([&] { read_json_file(folder.path() / "f"); }, "git lfs pull"));
  EXPECT_TRUE(raises([&] { check_no_lfs_pointer(folder.path() / "f"); }, "git lfs pull"));
  EXPECT_TRUE(
      raises([&] { check_no_lfs_pointer("version https://hawser.github.com/spec/v1\n", "g"); }, "g is a Git LFS"));
  EXPECT_NO_THROW(check_no_lfs_pointer(folder.path() / "absent"));
  EXPECT_NO_THROW(check_no_lfs_pointer("version: 1", "g"));
}

}  // namespace
}  // namespace moelora::io
