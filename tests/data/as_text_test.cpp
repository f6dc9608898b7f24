#include "moelora/data/as_text.h"

#include <gtest/gtest.h>

namespace moelora::data {
namespace {

Record record_of(const std::string& input, const std::string& target) {
  Record record;
  record.input = input;
  record.target = target;
  record.task = "CMeIE";
  record.sample_id = "1";
  record.answer_choices = {"a"};
  return record;
}

TEST(AsText, InputAndTargetTogetherAreTheText) {
  for (int i = 0; i < 50; ++i) {
    const std::string input = "找出实体：患者咳嗽" + std::to_string(i);
    const auto texts = as_texts({record_of(input, "咳嗽，症状")});
    ASSERT_EQ(texts.size(), 1u);
    EXPECT_EQ(texts[0].input + texts[0].target, input + "咳嗽，症状");
    EXPECT_EQ(texts[0].task, "text");
    EXPECT_TRUE(texts[0].answer_choices.empty());
    EXPECT_FALSE(texts[0].input.empty());
    // Cut between characters, in the first half.
    EXPECT_NE(static_cast<unsigned char>(texts[0].target[0]) & 0xC0, 0x80);
    EXPECT_LE(texts[0].input.size(), (input.size() + 15) / 2 + 3);
  }
}

TEST(AsText, TheRecordAloneDecidesTheCut) {
  const Record record = record_of("诊断：上呼吸道感染，给予对症治疗", "疾病");
  const auto alone = as_texts({record});
  const auto among = as_texts({record_of("其他", "别的"), record});
  EXPECT_EQ(alone[0].target, among[1].target);
}

TEST(AsText, ATextOfOneCharacterIsLeftOut) {
  EXPECT_TRUE(as_texts({record_of("", "一")}).empty());
  EXPECT_EQ(as_texts({record_of("一", "二")}).size(), 1u);
}

}  // namespace
}  // namespace moelora::data
