#include "moelora/data/demonstrations.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <nlohmann/json.hpp>

#include "data/fakes.h"
#include "io/raises.h"
#include "moelora/data/example.h"
#include "support/shared.h"

namespace moelora::data {
namespace {

using Choice = DemonstrationOptions::Choice;
using io::raises;

Record solved(const std::string& task, const std::string& input, const std::string& target) {
  Record record;
  record.task = task;
  record.input = input;
  record.target = target;
  return record;
}

// Inputs "A0=" … and "B0=" …, with the targets a0 …, b0 ….
std::vector<Record> two_tasks(int each) {
  std::vector<Record> records;
  for (int i = 0; i < each; ++i) {
    records.push_back(solved("A", "A" + std::to_string(i) + "=", "a" + std::to_string(i)));
    records.push_back(solved("B", "B" + std::to_string(i) + "=", "b" + std::to_string(i)));
  }
  return records;
}

std::string prompt_of(const DemonstrationPool& pool, const Record& question, const DemonstrationOptions& options,
                      std::int64_t* left_out = nullptr) {
  return pool.with_demonstrations(question, fakes::ByteTokenizer(), options, left_out).input;
}

DemonstrationOptions similar_ones(std::int64_t count) {
  DemonstrationOptions options;
  options.count = count;
  options.choice = Choice::similar;
  return options;
}

TEST(Demonstrations, AreOfTheSameTaskAndStandBeforeTheQuestion) {
  const DemonstrationPool pool(two_tasks(30));
  Record question = solved("B", "B?=", "secret");
  question.sample_id = "q";
  question.answer_choices = {"b0", "b1"};
  DemonstrationOptions options;
  for (const Choice choice : {Choice::random, Choice::similar}) {
    options.choice = choice;
    options.count = 3;
    const Record asked = pool.with_demonstrations(question, fakes::ByteTokenizer(), options);
    EXPECT_EQ(std::count(asked.input.begin(), asked.input.end(), 'B'), 4) << asked.input;
    EXPECT_EQ(std::count(asked.input.begin(), asked.input.end(), 'b'), 3) << asked.input;
    EXPECT_EQ(asked.input.find_first_of("Aa"), std::string::npos) << asked.input;
    EXPECT_TRUE(asked.input.ends_with("\n\nB?=")) << asked.input;
    EXPECT_EQ(asked.input.find("secret"), std::string::npos);
    Record rest = asked;
    rest.input = question.input;
    EXPECT_EQ(to_json(rest), to_json(question));
  }
}

TEST(Demonstrations, AtRandomDependOnSeedAndQuestionAlone) {
  std::vector<Record> records = two_tasks(40);
  const DemonstrationPool pool(records);
  DemonstrationOptions options;
  options.count = 4;
  options.seed = 5;
  const Record question = solved("A", "A?=", "t");
  const std::string asked = prompt_of(pool, question, options);
  EXPECT_EQ(prompt_of(pool, question, options), asked);
  EXPECT_EQ(prompt_of(pool, solved("A", "A?=", ""), options), asked) << "the target was looked at";
  EXPECT_NE(prompt_of(pool, solved("A", "A!=", "t"), options).substr(0, 20), asked.substr(0, 20));
  std::reverse(records.begin(), records.end());
  std::erase_if(records, [](const Record& record) { return record.task == "B"; });
  EXPECT_EQ(prompt_of(DemonstrationPool(records), question, options), asked) << "other records mattered";
  options.seed = 6;
  EXPECT_NE(prompt_of(pool, question, options), asked);
}

TEST(Demonstrations, AtRandomShowEveryRecordAboutEquallyOften) {
  const DemonstrationPool pool(two_tasks(10));
  DemonstrationOptions options;
  options.count = 2;
  std::map<std::string, int> shown;
  for (int i = 0; i < 1000; ++i) {
    const std::string asked = prompt_of(pool, solved("A", "A?" + std::to_string(i), ""), options);
    for (int record = 0; record < 10; ++record) {
      shown["a" + std::to_string(record)] += asked.find("=a" + std::to_string(record)) != std::string::npos ? 1 : 0;
    }
  }
  for (const auto& [target, times] : shown) {
    EXPECT_NEAR(times, 200, 60) << target;  // binomial, standard deviation 12.6
  }
}

TEST(Demonstrations, NeverShowTheQuestionItself) {
  std::vector<Record> records = two_tasks(3);
  records.push_back(solved("A", "A1=", "another answer to the same input"));
  const DemonstrationPool pool(records);
  DemonstrationOptions options;
  options.count = 10;
  for (const Choice choice : {Choice::random, Choice::similar}) {
    options.choice = choice;
    const std::string asked = prompt_of(pool, solved("A", "A1=", "a1"), options);
    EXPECT_TRUE(asked.ends_with("\n\nA1=")) << asked;
    EXPECT_EQ(asked.find("A1="), asked.size() - 3) << asked;
    EXPECT_EQ(asked.find("a1"), std::string::npos) << asked;
    EXPECT_EQ(asked.find("another"), std::string::npos) << asked;
  }
}

TEST(Demonstrations, TheMostSimilarStandsNearestToTheQuestion) {
  const DemonstrationPool pool({solved("A", "答题：感冒发烧咳嗽", "1"), solved("A", "答题：高血压吃药", "2"),
                                solved("A", "答题：感冒发烧流涕", "3"), solved("A", "答题：骨折手术", "4"),
                                solved("B", "答题：感冒发烧流涕怎么办", "5")});
  const Record question = solved("A", "答题：感冒发烧流涕怎么办", "");
  EXPECT_EQ(prompt_of(pool, question, similar_ones(1)), "答题：感冒发烧流涕3\n\n" + question.input);
  EXPECT_EQ(prompt_of(pool, question, similar_ones(2)),
            "答题：感冒发烧咳嗽1\n\n答题：感冒发烧流涕3\n\n" + question.input);
}

TEST(Demonstrations, EquallySimilarOnesComeInThePoolsOrder) {
  const DemonstrationPool pool({solved("A", "xy1", "p"), solved("A", "xy2", "q"), solved("A", "xy3", "r")});
  EXPECT_EQ(prompt_of(pool, solved("A", "xy", ""), similar_ones(2)), "xy2q\n\nxy1p\n\nxy");
  EXPECT_EQ(prompt_of(pool, solved("A", "无", ""), similar_ones(2)), "xy2q\n\nxy1p\n\n无");
}

TEST(Demonstrations, ATemplateOfAllRecordsCountsLessThanWhatDiffers) {
  std::vector<Record> records;
  for (int i = 0; i < 20; ++i) {
    records.push_back(solved("A", "请从下面的医学文本里找出所有的实体：" + std::to_string(1000 + 37 * i), "n"));
  }
  records.push_back(solved("A", "头痛三天", "y"));
  const DemonstrationPool pool(records);
  const Record question = solved("A", "请从下面的医学文本里找出所有的实体：头痛三天", "");
  EXPECT_TRUE(prompt_of(pool, question, similar_ones(1)).starts_with("头痛三天y\n\n"));
}

TEST(Demonstrations, AreLeftOutUntilTheyFitButTheQuestionIsNeverCut) {
  const fakes::ByteTokenizer tokenizer;
  const DemonstrationPool pool(
      {solved("A", "similar one", "1"), solved("A", "similar two", "2"), solved("A", "unlike", "3")});
  const Record question = solved("A", "similar one?", "");  // 12 bytes, two opening tokens
  DemonstrationOptions options = similar_ones(3);
  options.source_prefix = "> ";
  const auto at_length = [&](std::int64_t length, std::int64_t expected_left_out) {
    std::int64_t left_out = 100;  // is added to
    options.max_source_length = length;
    const Record asked = pool.with_demonstrations(question, tokenizer, options, &left_out);
    EXPECT_EQ(left_out, 100 + expected_left_out) << length;
    EncodeOptions encode;
    encode.source_prefix = options.source_prefix;
    encode.max_source_length = length;
    const std::string whole = tokenizer.decode(encode_prompt(asked, tokenizer, encode).ids);
    EXPECT_EQ(whole, "> " + asked.input) << "cut at " << length;
    return asked.input;
  };
  // 16 without demonstrations; 14 more for each similar one, 9 for the other.
  EXPECT_EQ(at_length(53, 0), "unlike3\n\nsimilar two2\n\nsimilar one1\n\nsimilar one?");
  EXPECT_EQ(at_length(52, 1), "similar two2\n\nsimilar one1\n\nsimilar one?");
  EXPECT_EQ(at_length(43, 2), "similar one1\n\nsimilar one?");
  EXPECT_EQ(at_length(30, 2), "similar one1\n\nsimilar one?");
  EXPECT_EQ(at_length(29, 3), "similar one?");
  EXPECT_EQ(at_length(16, 3), "similar one?");
  options.max_source_length = 8;  // not even the question fits: encode_prompt cuts it as ever
  EXPECT_EQ(prompt_of(pool, question, options), "similar one?");
}

TEST(Demonstrations, AreFewerWhereThePoolIsSmaller) {
  const DemonstrationPool pool({solved("A", "p", "1"), solved("A", "p", "1"), solved("A", "q", "2")});
  std::int64_t left_out = 0;
  for (const Choice choice : {Choice::random, Choice::similar}) {
    DemonstrationOptions options = similar_ones(50);
    options.choice = choice;
    const std::string asked = prompt_of(pool, solved("A", "r", ""), options, &left_out);
    EXPECT_TRUE(asked == "p1\n\nq2\n\nr" || asked == "q2\n\np1\n\nr") << asked;
    EXPECT_EQ(prompt_of(DemonstrationPool({solved("A", "r", "1")}), solved("A", "r", ""), options, &left_out), "r");
    options.count = 0;
    EXPECT_EQ(prompt_of(pool, solved("A", "r", ""), options, &left_out), "r");
  }
  EXPECT_EQ(left_out, 0);
}

TEST(Demonstrations, TheTaskPromptStandsOnceAndIsCounted) {
  const DemonstrationPool pool({solved("A", "p", "1"), solved("A", "q", "2")});
  DemonstrationOptions options = similar_ones(2);
  options.task_prompts = TaskPrompts(nlohmann::ordered_json{{"A", "d"}});
  const std::string prompt = "任务：A。d\n";
  EXPECT_EQ(prompt_of(pool, solved("A", "r", ""), options), prompt + "q2\n\np1\n\nr");
  options.max_source_length = static_cast<std::int64_t>(prompt.size()) + 1 + 4 + 2;
  EXPECT_EQ(prompt_of(pool, solved("A", "r", ""), options), prompt + "p1\n\nr");
  --options.max_source_length;
  EXPECT_EQ(prompt_of(pool, solved("A", "r", ""), options), prompt + "r");
}

TEST(Demonstrations, WithEarlierRoundsAreWrittenWithThem) {
  Record earlier = solved("A", "还要吃药吗", "要");
  earlier.history = {{"头痛", "多久了"}};
  const DemonstrationPool pool({earlier});
  EXPECT_EQ(prompt_of(pool, solved("A", "r", ""), similar_ones(1)), "Q:头痛 A:多久了 Q:还要吃药吗 A:要\n\nr");
  Record question = solved("A", "r", "");
  question.history = {{"你好", "请说"}};
  const Record asked = pool.with_demonstrations(question, fakes::ByteTokenizer(), similar_ones(1));
  EXPECT_EQ(asked.history, question.history);
}

TEST(Demonstrations, FromAnEmptyPoolOrOneWithoutTheTaskAreErrors) {
  EXPECT_TRUE(raises([] { DemonstrationPool({}); }, "found an empty pool"));
  const DemonstrationPool pool(two_tasks(2));
  EXPECT_TRUE(raises([&] { prompt_of(pool, solved("C", "c", ""), similar_ones(1)); },
                     "expected demonstrations of task 'C', found a pool of A, B"));
  EXPECT_TRUE(raises([&] { prompt_of(pool, solved("A", "c", ""), similar_ones(-1)); }, "found -1"));
}

TEST(Demonstrations, OfTheRealRecordsAreFoundInSecondsAndFit) {
  const std::filesystem::path folder = testing::shared() / "data" / "promptcblue";
  if (!std::filesystem::exists(folder)) {
    GTEST_SKIP() << "the real records are not here: " << folder;
  }
  const fakes::ByteTokenizer tokenizer;
  std::vector<Record> train = read_records(folder / "train.json").records;
  train.resize(8000);
  const std::vector<Record> questions = read_records(folder / "dev.json").records;
  DemonstrationOptions options = similar_ones(3);
  options.max_source_length = 3000;
  const auto start = std::chrono::steady_clock::now();
  const DemonstrationPool pool(train);
  std::int64_t left_out = 0;
  std::int64_t shown = 0;
  for (const Record& question : questions) {
    const Record asked = pool.with_demonstrations(question, tokenizer, options, &left_out);
    EXPECT_TRUE(asked.input.ends_with(question.input));
    const bool more = asked.input.size() > question.input.size();
    EXPECT_TRUE(!more || asked.input.size() + 2 <= 3000) << asked.input.size();
    shown += more ? 1 : 0;
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  EXPECT_LT(seconds, 30.0);
  EXPECT_GT(shown, static_cast<std::int64_t>(questions.size()) / 2);
  EXPECT_GT(left_out, 0);
}

}  // namespace
}  // namespace moelora::data
