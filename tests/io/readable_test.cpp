#include "moelora/io/readable.h"

#include <gtest/gtest.h>

namespace moelora::io {
namespace {

TEST(Readable, Numbers) {
  EXPECT_EQ(fixed(0.7238, 2), "0.72");
  EXPECT_EQ(fixed(1e300, 0).size(), 301u) << "no number is cut off";
  EXPECT_EQ(significant(0.00003, 3), "3e-05");
  EXPECT_EQ(significant(0.0002, 3), "0.0002");
  EXPECT_EQ(with_commas(29'360'128), "29,360,128");
  EXPECT_EQ(with_commas(-1'000), "-1,000");
  EXPECT_EQ(with_commas(-100), "-100");
  EXPECT_EQ(with_commas(0), "0");
}

TEST(Readable, Durations) {
  EXPECT_EQ(duration_text(-1), "0s");
  EXPECT_EQ(duration_text(59.6), "1m00s");
  EXPECT_EQ(duration_text(3700), "1h01m");
  EXPECT_EQ(rounded_duration(42), "42 s");
  EXPECT_EQ(rounded_duration(726), "12.1 min");
  EXPECT_EQ(rounded_duration(7230), "2.0 h");
}

TEST(Readable, Lists) {
  EXPECT_EQ(joined({}), "");
  EXPECT_EQ(joined({"a"}), "a");
  EXPECT_EQ(joined({"a", "b", "c"}), "a, b, c");
  EXPECT_EQ(joined({"a", "b"}, "; "), "a; b");
}

}  // namespace
}  // namespace moelora::io
