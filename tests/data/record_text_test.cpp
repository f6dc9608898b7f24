// Every way in which people write records into a file, and every way in which such a file is broken.

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <thread>

#include "moelora/data/json_scanner.h"
#include "moelora/data/record.h"
#include "moelora/io/error.h"
#include "support/shared.h"

namespace moelora::data {
namespace {

std::string record(const std::string& input) {
  return R"({"input": ")" + input + R"(", "target": "t", "task_dataset": "X"})";
}

std::string pretty(const std::string& input, const std::string& indent = "") {
  return indent + "{\n" + indent + "  \"input\": \"" + input + "\",\n" + indent + "  \"target\": \"t\",\n" + indent +
         "  \"extra\": {\n" + indent + "    \"deep\": [\n" + indent + "      1\n" + indent + "    ]\n" + indent +
         "  },\n" + indent + "  \"task_dataset\": \"X\"\n" + indent + "}";
}

struct Reading {
  std::string inputs;  ///< of the records, one after another
  std::vector<std::string> problems;
  std::string error;
};

Reading reading_of(const std::string& text) {
  const testing::TemporaryFolder folder;
  const std::filesystem::path path = folder.path() / "f.json";
  std::ofstream(path, std::ios::binary) << text;
  Reading reading;
  try {
    const RecordFile file = read_records(path);
    for (const Record& one : file.records) {
      reading.inputs += one.input;
    }
    for (const std::string& problem : file.problems) {
      reading.problems.push_back(problem.substr(folder.path().string().size() + 1));
    }
  } catch (const Error& error) {
    reading.error = error.what();
  }
  return reading;
}

::testing::AssertionResult reads(const std::string& text, const std::string& inputs) {
  const Reading reading = reading_of(text);
  if (reading.error.empty() && reading.problems.empty() && reading.inputs == inputs) {
    return ::testing::AssertionSuccess();
  }
  return ::testing::AssertionFailure() << "expected " << inputs << ", found " << reading.inputs << ", "
                                       << reading.problems.size() << " problems, first "
                                       << (reading.problems.empty() ? "" : reading.problems[0]) << ", error "
                                       << reading.error;
}

/// Records `inputs` are read, and problems are told that begin with these texts.
::testing::AssertionResult reads_but(const std::string& text, const std::string& inputs,
                                     const std::vector<std::string>& problems) {
  const Reading reading = reading_of(text);
  bool same = reading.error.empty() && reading.inputs == inputs && reading.problems.size() == problems.size();
  std::string told = reading.error;
  for (std::size_t i = 0; i < reading.problems.size(); ++i) {
    told += "\n" + reading.problems[i];
    same = same && i < problems.size() && reading.problems[i].starts_with(problems[i]);
  }
  return same ? ::testing::AssertionSuccess() : ::testing::AssertionFailure() << reading.inputs << told;
}

TEST(RecordText, EveryFormIsReadToItsEnd) {
  const std::string a = record("a"), b = record("b"), c = record("c");
  EXPECT_TRUE(reads(a + "\n" + b + "\n" + c, "abc"));
  EXPECT_TRUE(reads("[" + a + "," + b + "," + c + "]", "abc"));
  EXPECT_TRUE(reads("[" + a + "]\n[" + b + ", " + c + "]\n", "abc"));
  EXPECT_TRUE(reads("[" + a + "][" + b + "][]" + "[" + c + "]", "abc"));
  EXPECT_TRUE(reads("[" + a + "]\n" + b + "\n" + c + "\n", "abc"));
  EXPECT_TRUE(reads(a + "\n[" + b + "," + c + "]\n", "abc"));
  EXPECT_TRUE(reads(pretty("a") + "\n" + pretty("b") + "\n\n" + pretty("c"), "abc"));
  EXPECT_TRUE(
      reads("[\n" + pretty("a", "  ") + ",\n" + pretty("b", "  ") + ",\n" + pretty("c", "  ") + "\n]\n", "abc"));
  EXPECT_TRUE(reads(pretty("a") + b + pretty("c"), "abc"));
  EXPECT_TRUE(reads(a + " " + b + c, "abc"));
  EXPECT_TRUE(reads("\r\n\t" + a + "\r\n\r\n" + b + "\r\n" + c + "\r\n", "abc"));
  EXPECT_TRUE(reads("[" + a + "," + b + "," + c + ",]", "abc")) << "a comma behind the last";
  EXPECT_TRUE(reads("[" + a + "\n" + b + "\n" + c + "]", "abc")) << "commas forgotten";
  EXPECT_TRUE(reads("[" + record("x]\\\"}[") + "]", "x]\"}["));
}

TEST(RecordText, OnlyTheFieldsOfARecordMatter) {
  EXPECT_TRUE(
      reads(R"({"\u0069nput": "a", "target": "t", "task\u005fdataset": "X", "extra": 1e999, "history": null})", "a"));
  EXPECT_TRUE(reads(R"({"meta": {"input": "no"}, "input": "a", "target": "t", "task_dataset": "X"})", "a"));
}

TEST(RecordText, TextBehindAnArrayIsAnErrorWithItsPlace) {
  const std::string a = record("医生"), b = record("b");
  EXPECT_NE(reading_of("[" + a + "],\n" + b + "]\n").error.find("f.json:1:54: expected the end of the file"),
            std::string::npos)
      << reading_of("[" + a + "],\n" + b + "]\n").error;
  EXPECT_NE(reading_of("[" + a + "]\n]\n").error.find("f.json:2:1: expected the end"), std::string::npos);
  EXPECT_NE(reading_of("[\n" + a + "\n]\nand so on\n").error.find("f.json:4:1: expected the end"), std::string::npos);
  EXPECT_NE(reading_of("[" + a + "]\n[" + b).error.find("f.json:2:1: the JSON array that begins here is cut off"),
            std::string::npos);
}

TEST(RecordText, ABadRecordHidesNoOther) {
  const std::string a = record("a"), b = record("b"), c = record("c");
  // One line: found by its brackets.
  EXPECT_TRUE(reads_but("[" + a + ", {\"input\": nan}, " + c + "]", "ac",
                        {"f.json:1:64: broken JSON: expected a value, found 'n'"}));
  EXPECT_TRUE(reads_but("[" + a + ",," + c + "]", "ac", {"f.json:1:53: broken JSON: expected a record, found ','"}));
  EXPECT_TRUE(
      reads_but("[" + a + ", 5, [1], " + c + "]", "ac",
                {"f.json:1:54: expected an object, found number", "f.json:1:57: expected an object, found array"}));
  EXPECT_TRUE(reads_but("[" + a + ", {\"input\": ]\n[" + c + "]", "ac", {"f.json:1:63: broken JSON"}));
  // Lines: a record that is cut off ends with its line.
  const std::string cut = R"({"input": "cut", "target": )";
  EXPECT_TRUE(reads_but(a + "\n" + cut + "\n" + b + "\n" + c, "abc",
                        {"f.json:2:27: broken JSON: expected a value, found the end of the record (record 2)"}));
  EXPECT_TRUE(
      reads_but(a + "\n{\"input\": \"cut\n" + b, "ab", {"f.json:2:15: broken JSON: expected the '\"' that ends"}));
  EXPECT_TRUE(reads_but("[\n" + a + ",\n{\"input\": \"x\"y\"},\n" + c + "\n]", "ac", {"f.json:3:14: broken JSON"}));
  EXPECT_TRUE(reads_but(a + "\nsome words\n" + b, "ab", {"f.json:2:1: broken JSON: expected a record in { }"}));
  EXPECT_TRUE(reads_but(a + " words\n" + b, "ab", {"f.json:1:52: broken JSON: expected a record in { }"}));
  // Over several lines: the next record begins where this one did.
  std::string broken = pretty("broken");
  broken.replace(broken.find("\"t\","), 4, "\"t\"");
  EXPECT_TRUE(reads_but(pretty("a") + "\n" + broken + "\n" + pretty("c"), "ac",
                        {"f.json:14:3: broken JSON: expected ',' or '}', found '\"'"}));
  broken = pretty("broken", "  ");
  broken.erase(broken.rfind('}'));
  EXPECT_TRUE(reads_but("[\n" + pretty("a", "  ") + ",\n" + broken + ",\n" + pretty("c", "  ") + "\n]", "ac",
                        {"f.json:21:4: broken JSON: expected a key in '\"', found the end"}));
}

TEST(RecordText, KeysGivenTwiceAndHostileTextAreProblems) {
  const std::string a = record("a");
  EXPECT_TRUE(reads_but(a + "\n" + R"({"input": "x", "input": "y", "target": "t", "task_dataset": "X"})", "a",
                        {"f.json:2:16: broken JSON: the key \"input\" appears twice"}));
  EXPECT_TRUE(reads_but(a + "\n" + R"({"input": {"text": "x", "text": "y"}, "target": "t", "task_dataset": "X"})", "a",
                        {"f.json:2:25: broken JSON: the key \"text\" appears twice"}));
  EXPECT_TRUE(reads_but(a + "\n" + R"({"input": "x", "inp\u0075t": "y", "target": "t", "task_dataset": "X"})", "a",
                        {"f.json:2:16: broken JSON: the key \"inp"}));
  EXPECT_TRUE(
      reads_but(a + "\n{\"x\": " + std::string(100000, '['), "a", {"f.json:2:206: broken JSON: brackets nest"}));
  EXPECT_TRUE(reads_but(a + "\n" + R"({"input": "\ud800", "target": "t", "task_dataset": "X"})", "a",
                        {"f.json:2:12: broken JSON: half a character"}));
  EXPECT_TRUE(reads_but(a + "\n" + R"({"input": 1e999})", "a", {"f.json:2:11: broken JSON: number overflow"}));
  EXPECT_TRUE(reads_but(a + "\n{\"input\": \"" + std::string(1, '\0') + "\"}", "a",
                        {"f.json:2:12: broken JSON: found a zero byte"}));
  for (const std::string& text : {std::string("[[[[[["), std::string("{{{{"), std::string("]"), std::string("\""),
                                  std::string("{\"a\":1"), std::string("[,"), std::string("\0\0\0", 3)}) {
    const Reading reading = reading_of(text);
    EXPECT_NE(reading.error.find("f.json"), std::string::npos) << text;
    EXPECT_EQ(reading.error.find("json.exception"), std::string::npos) << reading.error;
  }
}

TEST(RecordText, OtherEncodingsAreReadOrNamed) {
  const std::string text = record("a") + "\n" + record("b") + "\n";
  std::string wide = "\xff\xfe";
  for (const char c : text) {
    wide += std::string{c, '\0'};
  }
  EXPECT_TRUE(reads(wide, "ab"));
  EXPECT_TRUE(reads(wide.substr(2), "ab")) << "without a byte-order mark";
  EXPECT_TRUE(reads("\xef\xbb\xbf" + text, "ab"));
  const std::string gbk = record("\xd2\xbd\xc9\xfa");
  EXPECT_TRUE(
      reads_but(record("a") + "\n" + gbk, "a", {"f.json:2:13: broken JSON: found the byte 0xC9, which is no UTF-8"}));
  EXPECT_NE(reading_of(gbk).error.find("iconv -f GBK"), std::string::npos) << reading_of(gbk).error;
}

TEST(RecordText, OtherFilesAreNamedAsWhatTheyAre) {
  EXPECT_NE(
      reading_of("version https://git-lfs.github.com/spec/v1\noid sha256:4a\nsize 4\n").error.find("git lfs pull"),
      std::string::npos);
  EXPECT_NE(reading_of("input,target\na,b\n").error.find("this is a CSV file"), std::string::npos);
  EXPECT_NE(reading_of("<html>\n</html>").error.find("this is an HTML"), std::string::npos);
  std::string long_csv;
  for (int i = 0; i < 200; ++i) {
    long_csv += "a,b\n";
  }
  EXPECT_NE(reading_of(long_csv).error.find("this is a CSV file"), std::string::npos);
}

TEST(RecordText, APipeIsReadLikeAFile) {
  const testing::TemporaryFolder folder;
  const std::filesystem::path pipe = folder.path() / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  for (const std::string& text : {"[" + record("a") + "]\n[" + record("b") + "]", record("a") + "\n" + record("b")}) {
    std::thread writer([&] { std::ofstream(pipe, std::ios::binary) << text; });
    const RecordFile file = read_records(pipe);
    writer.join();
    EXPECT_EQ(file.records.size(), 2u);
  }
}

TEST(RecordText, PlacesAreThoseOfTheFileWhateverTheForm) {
  const testing::TemporaryFolder folder;
  const std::filesystem::path path = folder.path() / "f.json";
  std::ofstream(path) << "[" << record("a") << ", " << record("b") << "]\n" << pretty("c") << "\n";
  const RecordFile file = read_records(path);
  ASSERT_EQ(file.records.size(), 3u);
  EXPECT_EQ(file.records[1].line, 1);
  EXPECT_EQ(file.records[1].number, 2);
  EXPECT_EQ(file.records[2].line, 2);
  EXPECT_EQ(file.records[2].number, 3);
}

TEST(JsonScanner, TakesExactlyOneValue) {
  for (const char* text : {"{}", "[]", "0", "-1.5e+3", "\"\\u4e2d\\ud834\\udd1e\\n\"", "true", "false", "null",
                           "{\"a\": [1, {\"b\": \"\"}], \"c\": 0.1}", "[ 1 , 2 ]"}) {
    EXPECT_EQ(scan_json(std::string(text) + " rest", 0).end, std::string(text).size()) << text;
  }
  for (const char* text :
       {"",   "{",  "}",  "[1 2]",   "{\"a\" 1}",   "{a: 1}",      "{\"a\": 1,}",        "[1,]",   "tru", "-",
        "1.", "1e", "\"", "\"\\x\"", "\"\\u12g4\"", "\"\\udc00\"", "\"\\ud800\\u0041\"", "\"\t\"", "'a'", "NaN"}) {
    EXPECT_THROW(scan_json(text, 0), JsonFault) << text;
  }
  const auto members = scan_json("  {\"a\": {\"x\": 1}, \"b\": 2}", 2).members;
  ASSERT_EQ(members.size(), 2u);
  EXPECT_EQ(members[0].key, "a");
  EXPECT_EQ(members[1].value, 23u);
}

}  // namespace
}  // namespace moelora::data
