#include "moelora/io/json_file.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "io/damage.h"
#include "io/raises.h"
#include "support/shared.h"

namespace moelora::io {
namespace {

nlohmann::ordered_json parsed(const std::string& text) {
  const testing::TemporaryFolder folder;
  write_bytes(folder.path() / "f.json", text);
  return read_json_file(folder.path() / "f.json");
}

TEST(JsonFile, ReadsBackWhatItWrote) {
  const testing::TemporaryFolder folder;
  const auto value = nlohmann::ordered_json::parse(R"({"zwei": 2, "eins": [1.5, null, true], "中文": "引\"号\n"})");
  write_json_file(folder.path() / "f.json", value);
  EXPECT_EQ(read_json_file(folder.path() / "f.json"), value);
  const std::string text = read_text_file(folder.path() / "f.json");
  EXPECT_TRUE(text.starts_with("{\n  \"zwei\": 2,\n"));  // the order given, two spaces
  EXPECT_TRUE(text.ends_with("}\n"));
  EXPECT_NE(text.find("中文"), std::string::npos);
}

TEST(JsonFile, TakesLinesOfTwoSlashesAsComments) {
  EXPECT_EQ(parsed("// run with this\n  \t// and that\n{\n\"url\": \"http://x\"\n// end\n}\n//")["url"], "http://x");
}

TEST(JsonFile, ACommentAfterAValueIsAnError) {
  EXPECT_TRUE(raises([] { parsed("{\"a\": 1 // no\n}"); }, ":1:9: "));
}

TEST(JsonFile, ErrorsNameFileLineAndColumn) {
  EXPECT_TRUE(raises([] { parsed("// comment\n{\n  \"a\": 1,\n  \"b\": ?\n}"); }, "f.json:4:8: syntax error"));
  EXPECT_TRUE(raises([] { parsed("{\"a\": 1"); }, "f.json:1:"));
  EXPECT_TRUE(raises([] { parsed(""); }, "f.json:1:1: "));
  EXPECT_TRUE(raises([] { parsed("{} {}"); }, "f.json:1:4: "));
}

TEST(JsonFile, ColumnsCountCharacters) {
  EXPECT_TRUE(raises([] { parsed("{\"问题\": ?}"); }, "f.json:1:8: "));
}

TEST(JsonFile, ReadsWhatEditorsSave) {
  EXPECT_EQ(parsed("\xef\xbb\xbf// comment\n{\"a\": 1}")["a"], 1);
  EXPECT_EQ(parsed(std::string("\xff\xfe{\0\"\0a\0\"\0:\0\x31\0}\0", 16))["a"], 1);
}

TEST(JsonFile, NamesAnotherKindOfFile) {
  EXPECT_TRUE(raises([] { parsed("input,target\na,b\n"); }, "expected JSON, found a CSV file"));
  EXPECT_TRUE(raises([] { parsed("<html>"); }, "expected JSON, found an HTML"));
}

TEST(JsonFile, BrokenTextIsAnErrorOfOurs) {
  EXPECT_TRUE(raises([] { parsed("{\"a\": \"\xff\xfe\"}"); }, "UTF-8"));
  EXPECT_TRUE(raises([] { parsed("{\"a\": 1e999}"); }, "overflow"));
  EXPECT_TRUE(raises([] { parsed(std::string("{\"a\": 1}\0", 9)); }, "f.json:1:9: "));
  EXPECT_TRUE(raises([] { parsed("{\"a\": \"" + std::string("\\ud800") + "\"}"); }, "f.json:1:"));
}

TEST(JsonFile, AKeyGivenTwiceIsAnError) {
  EXPECT_TRUE(raises([] { parsed(R"({"a": {"b": 1, "c": 2, "b": 3}})"); }, "key \"b\" appears twice"));
  EXPECT_EQ(parsed(R"([{"b": 1}, {"b": 2}])")[1]["b"], 2);
}

TEST(JsonFile, DeepNestingIsAnErrorNotACrash) {
  EXPECT_TRUE(raises([] { parsed(std::string(1000000, '[')); }, "nest deeper than 200"));
  EXPECT_EQ(parsed(std::string(200, '[') + std::string(200, ']')).size(), 1u);
  EXPECT_EQ(parsed("\"" + std::string(1000, '[') + "\\\"" + std::string(1000, '{') + "\"").get<std::string>().size(),
            2001u);
}

TEST(JsonFile, EveryCutOfAFileIsAnError) {
  const std::string text = R"({"name": "wörd", "list": [1, -2.5e3, true, null], "deep": {"x": "\u4e2d"}})";
  ASSERT_EQ(parsed(text)["list"].size(), 4u);
  for (std::size_t size = 0; size < text.size(); ++size) {
    EXPECT_TRUE(raises([&] { parsed(text.substr(0, size)); }, "f.json:1:")) << size;
  }
}

TEST(JsonFile, SaysWhyAFileCannotBeRead) {
  const testing::TemporaryFolder folder;
  EXPECT_TRUE(raises([&] { read_json_file(folder.path() / "absent.json"); }, "absent.json: No such file"));
  EXPECT_TRUE(raises([&] { read_json_file(folder.path()); }, "found a folder"));
  std::ofstream(folder.path() / "empty");
  EXPECT_EQ(read_text_file(folder.path() / "empty"), "");
}

TEST(JsonFile, RefusesToWriteBrokenText) {
  const testing::TemporaryFolder folder;
  EXPECT_TRUE(raises([&] { write_json_file(folder.path() / "f.json", {{"a", "\xff"}}); }, "f.json"));
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "f.json"));
}

}  // namespace
}  // namespace moelora::io
