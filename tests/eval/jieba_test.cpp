#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "moelora/data/record.h"
#include "moelora/eval/rouge.h"
#include "moelora/eval/segmenter.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/io/sha256.h"
#include "support/shared.h"

namespace moelora::eval {
namespace {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;

#define MOELORA_SKIP_WITHOUT_JIEBA()                                                                        \
  do {                                                                                                      \
    if (find_jieba_tables().empty()) {                                                                      \
      GTEST_SKIP() << "jieba's tables are absent (bash -c '. cmake/setup.sh; moelora_jieba' fetches them)"; \
    }                                                                                                       \
  } while (false)

const JiebaSegmenter& real_jieba() {
  static const JiebaSegmenter segmenter(find_jieba_tables());
  return segmenter;
}

struct Recorded {
  std::string text;
  Words words;
};
std::vector<Recorded> recorded_texts() {
  std::vector<Recorded> texts;
  for (const auto& entry : io::read_json_file(testing::fixtures() / "segmentation" / "texts.json")) {
    texts.push_back({entry["text"], entry["words"].get<Words>()});
  }
  return texts;
}

// "number of words, first 16 digits of the SHA-256 of the words joined by U+001F", as the recorded file has it.
std::string digest(const Words& words) {
  std::string joined;
  for (const std::string& word : words) joined += (&word == &words.front() ? "" : "\x1f") + word;
  return std::to_string(words.size()) + " " + io::sha256_of(joined).substr(0, 16);
}

TEST(Jieba, CutsRecordedTextsAsThePythonPackage) {
  MOELORA_SKIP_WITHOUT_JIEBA();
  const auto texts = recorded_texts();
  ASSERT_GT(texts.size(), 150U);
  for (const auto& [text, words] : texts) EXPECT_EQ(real_jieba().cut(text), words) << text;
}

TEST(Jieba, CutsEveryDevelopmentRecordAsThePythonPackage) {
  MOELORA_SKIP_WITHOUT_JIEBA();
  const fs::path data = testing::shared() / "data" / "promptcblue" / "dev.json";
  if (!fs::exists(data)) GTEST_SKIP() << "no " << data << " (set MOELORA_SHARED_DIR)";
  std::ifstream recorded(testing::fixtures() / "segmentation" / "promptcblue_dev.txt");
  const auto records = data::read_records(data).records;
  ASSERT_EQ(records.size(), 941U);
  for (std::size_t i = 0; i < records.size(); ++i) {
    std::string choices;
    for (const std::string& choice : records[i].answer_choices) choices += (choices.empty() ? "" : "，") + choice;
    std::string expected;
    ASSERT_TRUE(std::getline(recorded, expected));
    EXPECT_EQ(digest(real_jieba().cut(records[i].input)) + " " + digest(real_jieba().cut(records[i].target)) + " " +
                  digest(real_jieba().cut(choices)),
              expected)
        << "record " << i + 1;
  }
}

// Texts of all kinds of characters in random order, cut by the package itself.
TEST(Jieba, CutsRandomTextsAsTheInstalledPythonPackage) {
  MOELORA_SKIP_WITHOUT_JIEBA();
  const char* set = std::getenv("MOELORA_PYTHON");
  const std::string python = set == nullptr ? "python3" : set;
  if (std::system((python + " -c 'import jieba; assert jieba.__version__ == \"0.42.1\"' >/dev/null 2>&1").c_str()) !=
      0) {
    GTEST_SKIP() << python << " has no package jieba 0.42.1 (MOELORA_PYTHON names another interpreter)";
  }
  std::mt19937 random(11);
  const auto recorded = recorded_texts();
  nlohmann::json texts = nlohmann::json::array();
  for (int i = 0; i < 400; ++i) {
    std::string text;
    for (int part = 0; part < 6; ++part) {
      const Words& words = recorded[random() % recorded.size()].words;
      for (int word = 0; word < 3 && !words.empty(); ++word) text += words[random() % words.size()];
    }
    texts.push_back(text);
  }
  testing::TemporaryFolder folder;
  std::ofstream(folder.path() / "texts.json") << texts;
  std::ofstream(folder.path() / "cut.py") << "import jieba, json, sys\n"
                                             "texts = json.load(open(sys.argv[1] + '/texts.json', encoding='utf-8'))\n"
                                             "json.dump([jieba.lcut(t) for t in texts], open(sys.argv[1] + "
                                             "'/words.json', 'w', encoding='utf-8'))\n";
  const std::string run =
      python + " " + (folder.path() / "cut.py").string() + " " + folder.path().string() + " 2>/dev/null";
  ASSERT_EQ(std::system(run.c_str()), 0);
  const auto words = io::read_json_file(folder.path() / "words.json");
  ASSERT_EQ(words.size(), texts.size());
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const std::string text = texts[i];
    EXPECT_EQ(real_jieba().cut(text), words[i].get<Words>()) << text;
  }
}

TEST(Jieba, LosesNothingOfAnyText) {
  MOELORA_SKIP_WITHOUT_JIEBA();
  std::mt19937 random(3);
  for (int i = 0; i < 200; ++i) {
    std::string text;
    for (int byte = 0; byte < 60; ++byte)
      text += static_cast<char>(random() % 4 == 0 ? random() : "中\xe6\x9d.9%a\r\n"[random() % 11]);
    std::string joined;
    for (const std::string& word : real_jieba().cut(text)) {
      EXPECT_FALSE(word.empty());
      joined += word;
    }
    EXPECT_EQ(joined, text);
  }
  EXPECT_EQ(real_jieba().cut(std::string(1 << 20, '.')).size(), 1U);
}

TEST(Jieba, ReadsItsTablesInLessThanASecondAndWhenTheyAreNeeded) {
  MOELORA_SKIP_WITHOUT_JIEBA();
  const JiebaSegmenter segmenter(find_jieba_tables());
  const auto start = std::chrono::steady_clock::now();
  segmenter.cut("患者");
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  RecordProperty("seconds", std::to_string(seconds.count()));
  EXPECT_LT(seconds.count(), 5.0);  // a busy machine, a build with sanitizers
}

// A dictionary small enough to compute by hand.
class SmallJieba : public ::testing::Test {
 protected:
  void write(const std::string& name, const std::string& text) { std::ofstream(folder_.path() / name) << text; }
  void SetUp() override {
    write("dict.txt", "甲乙 4 n\n乙丙 4 n\n甲 1\n丙 1\n丁 8 n\n甲乙丙丁戊 1 n\nab 2\n");
    write("prob_start.py", "P={'B': -0.5,\n 'E': -3.14e+100,\n 'M': -3.14e+100,\n 'S': -1.0}\n");
    write("prob_trans.py",
          "P={'B': {'E': -0.5, 'M': -1.0},\n 'E': {'B': -0.5, 'S': -1.0},\n 'M': {'E': -0.5, 'M': -1.0},\n"
          " 'S': {'B': -0.5, 'S': -1.0}}\n");
    write(
        "prob_emit.py",
        "from __future__ import unicode_literals\n\nP={'B': {'\\u5b50': -1.0, '丑': -9.0},\n 'E': {'\\u4e11': -1.0},\n"
        " 'M': {}, 'S': {'\\u5b50': -9.0}}\n");
  }
  Words cut(const std::string& text) const { return JiebaSegmenter(folder_.path()).cut(text); }
  std::string error_of(const std::string& text = "甲") const {
    try {
      cut(text);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }
  testing::TemporaryFolder folder_;
};

TEST_F(SmallJieba, TakesTheMostProbableWay) {
  // 甲乙 + 丙 and 甲 + 乙丙 are equally probable: the longer first word wins.
  EXPECT_EQ(cut("甲乙丙"), (Words{"甲乙", "丙"}));
  // One word that was counted once, 1/21, against 4/21 · 1/21 · 8/21 · 1/21: the whole wins.
  EXPECT_EQ(cut("甲乙丙丁戊"), (Words{"甲乙丙丁戊"}));
  EXPECT_EQ(cut("丁乙丙"), (Words{"丁", "乙丙"}));
}

TEST_F(SmallJieba, TheModelJoinsWhatTheDictionaryDoesNotKnow) {
  // 子 begins, 丑 ends a word: B E = -0.5 - 1 - 0.5 - 1 = -3 against any way with an unseen emission.
  EXPECT_EQ(cut("子丑"), (Words{"子丑"}));
  // Nothing of 寅卯 was seen: all ways weigh -3.14e100 twice, and the later letter of equals is taken.
  EXPECT_EQ(cut("寅卯"), (Words{"寅", "卯"}));
  // The character after them has no emission: ending with a word of its own ties with anything else and wins.
  EXPECT_EQ(cut("子丑丁"), (Words{"子丑", "丁"}));
}

TEST_F(SmallJieba, NumbersUnitsAndMarks) {
  EXPECT_EQ(cut("x3.5%"), (Words{"x3.5%"}));
  EXPECT_EQ(cut("3.x..#y"), (Words{"3", ".", "x", "..#", "y"}));
  EXPECT_EQ(cut("ab"), (Words{"ab"}));
  EXPECT_EQ(cut("丁，丁\r\n丁 "), (Words{"丁", "，", "丁", "\r\n", "丁", " "}));
}

TEST_F(SmallJieba, DamagedTablesAreNamedWithTheirPlace) {
  write("dict.txt", "甲乙 4 n\n乙丙\n");
  EXPECT_NE(error_of().find("dict.txt line 2"), std::string::npos) << error_of();
  write("dict.txt", "甲乙 x n\n");
  EXPECT_NE(error_of().find("dict.txt line 1"), std::string::npos) << error_of();
  write("dict.txt", "");
  EXPECT_NE(error_of().find("found none"), std::string::npos) << error_of();
  write("dict.txt", "甲乙 4 n\n");
  for (const char* damaged :
       {"", "P={", "P={'B': x}", "P={'Q': -1.0}", "P={'B': nan}", "import os", "P={'B': {'\\u4e"}) {
    write("prob_start.py", damaged);
    EXPECT_NE(error_of().find("prob_start.py"), std::string::npos) << damaged;
  }
  fs::remove(folder_.path() / "prob_start.py");
  EXPECT_NE(error_of().find("found no prob_start.py"), std::string::npos) << error_of();
  EXPECT_FALSE(JiebaSegmenter::has_tables(folder_.path()));
}

TEST(JiebaTables, TheEnvironmentNamesThem) {
  const char* before = std::getenv("MOELORA_JIEBA_DIR");
  const std::string kept = before == nullptr ? "" : before;
  setenv("MOELORA_JIEBA_DIR", "", 1);
  EXPECT_TRUE(find_jieba_tables().empty());
  setenv("MOELORA_JIEBA_DIR", "/nowhere", 1);
  EXPECT_THROW(find_jieba_tables(), Error);
  if (before == nullptr) {
    unsetenv("MOELORA_JIEBA_DIR");
  } else {
    setenv("MOELORA_JIEBA_DIR", kept.c_str(), 1);
  }
}

}  // namespace
}  // namespace moelora::eval
