#include "moelora/io/memory.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <new>

#include "io/raises.h"

namespace moelora::io {
namespace {

TEST(Memory, TooLittleOfItIsAnErrorOfItsOwnType) {
  EXPECT_THROW(check_memory(1e18, "the model", "take a smaller one"), OutOfMemory);
  EXPECT_TRUE(raises([] { check_memory(1e18, "the model", "take a smaller one"); }, "the model takes 1e+09 GB"));
  EXPECT_NO_THROW(check_memory(1e6, "the model", "take a smaller one"));
}

TEST(Memory, ExceptionsOfAllAllocatorsAreKnown) {
  EXPECT_TRUE(is_out_of_memory(std::bad_alloc()));
  EXPECT_TRUE(is_out_of_memory(OutOfMemory("x")));
  EXPECT_FALSE(is_out_of_memory(Error("out of memory"))) << "the text of our own errors decides nothing";
  EXPECT_FALSE(is_out_of_memory(std::runtime_error("out of memory")));
  try {
    at::empty({std::int64_t{1} << 50});
    FAIL() << "that much memory was there";
  } catch (const std::exception& error) {
    EXPECT_TRUE(is_out_of_memory(error)) << error.what();
  }
}

}  // namespace
}  // namespace moelora::io
