#pragma once

#include <string>

namespace moelora::testing::pretend {

/// The innermost functions of the library that led here, innermost first: "moelora::nn::f < moelora::train::g".
/// Local functions are named too; those that were inlined are not.
std::string callers();

}  // namespace moelora::testing::pretend
