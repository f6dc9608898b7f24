#include "io/pickle_globals.h"

#include <gtest/gtest.h>

#include "io/raises.h"

namespace moelora::io {
namespace {

TEST(PickleGlobals, NameTensorsAndNothingThatRuns) {
  EXPECT_TRUE(is_allowed_global("collections", "OrderedDict"));
  EXPECT_TRUE(is_allowed_global("torch", "HalfStorage"));
  EXPECT_FALSE(is_allowed_global("os", "system"));
  EXPECT_FALSE(is_allowed_global("builtins", "eval"));
  EXPECT_FALSE(is_allowed_global("torch", "OrderedDict")) << "the module counts";
}

TEST(PickleGlobals, OfAHostileFileAreNamedOnOneLine) {
  EXPECT_TRUE(raises([] { refuse_global("os", "sys\ntem", "x.bin"); }, "x.bin: the pickle names os.sys?tem"));
}

}  // namespace
}  // namespace moelora::io
