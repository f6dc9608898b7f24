#include "moelora/data/text_template.h"

#include <gtest/gtest.h>

#include <map>

#include "moelora/io/error.h"

namespace moelora::data {
namespace {

std::string filled(const std::string& text, const std::map<std::string, std::string>& values) {
  return TextTemplate(text).fill([&](const TextTemplate::Field& field) { return values.at(field.name); });
}

TEST(TextTemplate, PutsValuesInTheirPlaces) {
  EXPECT_EQ(filled("{a}", {{"a", "x"}}), "x");
  EXPECT_EQ(filled("Q: {a}\nA ({b?}): ", {{"a", "x\ny"}, {"b", "z"}}), "Q: x\ny\nA (z): ");
  EXPECT_EQ(filled("{a}{a}{b.c}", {{"a", "1"}, {"b.c", "2"}}), "112");
  EXPECT_EQ(filled("{{{a}}} {{}}", {{"a", "x"}}), "{x} {}");
  EXPECT_EQ(filled("{a}", {{"a", "{b} {{"}}), "{b} {{") << "values are no templates";
}

TEST(TextTemplate, LeavesOutLinesWhoseFieldsAreAllEmpty) {
  EXPECT_EQ(filled("{a}\n{b}", {{"a", "x"}, {"b", ""}}), "x");
  EXPECT_EQ(filled("{a}\n{b}", {{"a", ""}, {"b", "y"}}), "y");
  EXPECT_EQ(filled("{a}\nInput: {b}\nAnswer:", {{"a", "x"}, {"b", ""}}), "x\nAnswer:");
  EXPECT_EQ(filled("{a} {b}\n\nend\n", {{"a", ""}, {"b", "y"}}), " y\n\nend\n");
  EXPECT_EQ(filled("Question: {a}\nAnswer: ", {{"a", ""}}), "") << "no field has a value";
}

TEST(TextTemplate, NamesItsFieldsOnce) {
  const auto fields = TextTemplate("{a} {b?} {a}\n{{c}}").fields();
  ASSERT_EQ(fields.size(), 2u);
  EXPECT_EQ(fields[0], (TextTemplate::Field{"a", false}));
  EXPECT_EQ(fields[1], (TextTemplate::Field{"b", true}));
  EXPECT_TRUE(TextTemplate("plain").fields().empty());
}

TEST(TextTemplate, BracesThatDoNotMatchAreErrorsWithTheirPlace) {
  const std::vector<std::pair<std::string, std::string>> wrong = {
      {"问 {a", "expected '}' behind the field that begins at character 3"},
      {"{a\n}", "expected '}'"},
      {"{a{b}", "expected '}'"},
      {"a} b", "found '}' without '{' at character 2"},
      {"x {}", "expected a field's name in the braces at character 3"},
      {"{?}", "expected a field's name"},
  };
  for (const auto& [text, part] : wrong) {
    try {
      TextTemplate made(text);
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace moelora::data
