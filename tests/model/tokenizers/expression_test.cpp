#include "model/tokenizers/expression.h"

#include <gtest/gtest.h>

#include "model/tokenizers/pattern.h"
#include "moelora/io/error.h"

namespace moelora::model::tokenizers {
namespace {

std::vector<std::string> matches(const std::string& pattern, std::string_view text) {
  std::vector<std::string> found;
  cut_at_matches(Expression(pattern, "test"), text, 0, text.size(), [&](Span span, bool is_match) {
    if (is_match) found.emplace_back(text.substr(span.begin, span.end - span.begin));
  });
  return found;
}

using Texts = std::vector<std::string>;

TEST(Expression, ClassesMeanUnicodeProperties) {
  EXPECT_EQ(matches(R"(\s+)", "a \u00a0\u3000b\u0085c"), (Texts{" \u00a0\u3000", "\u0085"}));
  EXPECT_TRUE(matches(R"(\s)", "\u180e").empty()) << "no blank any more since Unicode 6.3, but one to PCRE2";
  EXPECT_EQ(matches(R"([^\s\p{L}\p{N}]+)", "a!?\u180eb"), (Texts{"!?\u180e"}));
  EXPECT_EQ(matches(R"(\p{N}{1,3})", "12345Ⅳ"), (Texts{"123", "45Ⅳ"}));
  EXPECT_EQ(matches(R"(\w+)", "e\u0301_1 b"), (Texts{"e\u0301_1", "b"}));
  EXPECT_EQ(matches(R"((?i:'s|'ll))", "'S 'LL 'ſ"), (Texts{"'S", "'LL", "'ſ"}));
  EXPECT_EQ(matches(R"(\s+(?!\S)|\s+)", "a   b  "), (Texts{"  ", " ", "  "}));
}

// To PCRE2 a script's name alone means its extensions too: punctuation that several scripts share.
TEST(Expression, AScriptIsItsOwnCharacters) {
  EXPECT_EQ(matches(R"(\p{Han}+)", "头、痛。〇"), (Texts{"头", "痛", "〇"}));
  EXPECT_EQ(matches(R"([\p{Han}\p{Latin}]+)", "头a、b"), (Texts{"头a", "b"}));
  EXPECT_EQ(matches(R"(\P{Han}+|\p{^Cyrillic})", "头、ж"), (Texts{"头", "、ж"}));
}

TEST(Expression, WhatIsReadDifferentlyElsewhereIsRefused) {
  for (const char* pattern : {R"(\h)",   R"([a[b]])", R"([a&&b])",          R"((?<name>a))", R"((?x)a)",  R"((a)\1)",
                              R"(\b)",   R"(a{,3})",  R"(a{1,2}+)",         R"((*UTF)a)",    R"(\R)",     R"(\X)",
                              R"([\W])", R"(\xff)",   R"(\p{NoSuchThing})", R"((?R))",       R"((?C1)a)", "(",
                              "[a",      R"(a\)",     "a(?i)b|c",           "x{2}?"}) {
    EXPECT_THROW(Expression(pattern, "test"), Error) << pattern;
  }
}

TEST(Expression, AMatchThatTakesForeverIsAnError) {
  const std::string text = std::string(40, 'a') + "!";
  EXPECT_THROW(matches("(?:a|aa)+$", text + text), Error);
  EXPECT_EQ(matches(R"(\s+(?!\S)|\s+)", std::string(1 << 20, ' ')).size(), 1U);
}

TEST(Expression, ALiteralHasNoSigns) {
  Span match;
  ASSERT_TRUE(Expression::literal("a.c", "test").find("abc a.c", 0, match));
  EXPECT_EQ(match.begin, 4U);
  EXPECT_THROW(Expression::literal("", "test"), Error);
}

TEST(Expression, EmptyMatchesCutWithoutAPiece) {
  std::vector<std::string> all;
  const std::string text = "a病b";
  cut_at_matches(Expression("x*", "test"), text, 0, text.size(),
                 [&](Span span, bool) { all.push_back(text.substr(span.begin, span.end - span.begin)); });
  EXPECT_EQ(all, (Texts{"a", "病", "b"}));
}

}  // namespace
}  // namespace moelora::model::tokenizers
