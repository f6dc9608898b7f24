#include <gtest/gtest.h>

#include "adapter/merge/merge_fixture.h"
#include "moelora/adapter/merge.h"

namespace moelora {
namespace {

TEST(ParseMixture, ReadsTasksAndWeights) {
  EXPECT_EQ(parse_mixture("CMeIE=0.5,MedDG=0.5"),
            (std::vector<std::pair<std::string, double>>{{"CMeIE", 0.5}, {"MedDG", 0.5}}));
  EXPECT_EQ(parse_mixture(" a = -1e-2 , b=2"), (std::vector<std::pair<std::string, double>>{{"a", -0.01}, {"b", 2.0}}));
  EXPECT_EQ(parse_mixture("x=y=3").front().first, "x=y");
  EXPECT_EQ(parse_mixture("A=1"), (std::vector<std::pair<std::string, double>>{{"A", 1.0}}));
  EXPECT_EQ(parse_mixture("A=+0.25,B=1e-3").front().second, 0.25);
}

TEST(ParseMixture, NamesTheBadPart) {
  for (const auto* bad : {"", "a", "a=", "=1", "a=1,", "a=1,b", "a=x", "a=1.5y", "a=inf", "a=nan", "a=1,a=2", "a=1e999",
                          "a=++1", "a=+-1", "a==1,=", "a=1,,b=2", "a=0x10", "a=1 2"}) {
    EXPECT_THROW(parse_mixture(bad), Error) << bad;
  }
  EXPECT_NE(error_of([] { parse_mixture("a=1,b=two"); }).find("'b=two'"), std::string::npos);
  EXPECT_NE(error_of([] { parse_mixture("a=1,b=two"); }).find("'two' is no number"), std::string::npos);
  EXPECT_NE(error_of([] { parse_mixture("a=1,b=1,a=3"); }).find("task 'a' comes twice"), std::string::npos);
  EXPECT_NE(error_of([] { parse_mixture("a=-inf"); }).find("not finite"), std::string::npos);
}

}  // namespace
}  // namespace moelora
