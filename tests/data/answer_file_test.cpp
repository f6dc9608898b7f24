#include "moelora/data/answer_file.h"

#include <gtest/gtest.h>

#include <fstream>

#include "io/raises.h"
#include "moelora/io/json_file.h"
#include "support/shared.h"

namespace moelora::data {
namespace {

const nlohmann::ordered_json kIdentity{{"model", "m"}, {"seed", 1}};

TEST(Answers, SurviveTheWayToJsonAndBack) {
  const Answer answer{3, "怀孕相关", 5, true};
  EXPECT_EQ(to_json(answer).dump(), R"({"record":3,"answer":"怀孕相关","tokens":5,"finished":true})");
  EXPECT_EQ(to_json(answer_from_json(to_json(answer))), to_json(answer));
}

TEST(AnswerFile, KeepsWholeLinesAndDropsTheOneThatWasCutOff) {
  testing::TemporaryFolder folder;
  const auto path = folder.path() / "made" / "answers.partial";
  {
    AnswerFile file(path, /*resume=*/false);
    EXPECT_TRUE(file.begin(kIdentity).empty());
    file.add({{0, "a", 1, true}, {1, "b", 2, false}});
  }
  std::ofstream(path, std::ios::app) << "{\"record\": 2, \"ans";
  EXPECT_TRUE(io::raises([&] { AnswerFile(path, /*resume=*/false); }, "holds 2 answers"));
  AnswerFile file(path, /*resume=*/true);
  const std::vector<Answer> kept = file.begin(kIdentity);
  ASSERT_EQ(kept.size(), 2u);
  EXPECT_EQ(kept[1].text, "b");
  file.add({{2, "c", 1, true}});
  EXPECT_EQ(AnswerFile::read(path, kIdentity).size(), 3u);
  EXPECT_TRUE(io::raises(
      [&] {
        AnswerFile::read(path, {{"model", "other"}, {"seed", 1}});
      },
      "model: \"m\", now \"other\""));
  file.remove();
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(AnswerFile, LeavesNothingBehindWithoutAnAnswer) {
  testing::TemporaryFolder folder;
  const auto path = folder.path() / "answers.partial";
  { AnswerFile(path, /*resume=*/false).begin(kIdentity); }
  EXPECT_FALSE(std::filesystem::exists(path));
}

}  // namespace
}  // namespace moelora::data
