#include "io/edit_distance.h"

#include <gtest/gtest.h>

namespace moelora::io {
namespace {

TEST(EditDistance, CountsChangesAndSwapsOfNeighbours) {
  EXPECT_EQ(edit_distance("", ""), 0U);
  EXPECT_EQ(edit_distance("", "abc"), 3U);
  EXPECT_EQ(edit_distance("abc", ""), 3U);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3U);
  EXPECT_EQ(edit_distance("lora", "loar"), 1U);
  EXPECT_EQ(edit_distance("alpha", "aphla"), 2U);
  EXPECT_EQ(edit_distance("ca", "abc"), 3U) << "what was swapped is not changed again";
}

}  // namespace
}  // namespace moelora::io
