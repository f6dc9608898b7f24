#pragma once
// Checks of numbers on the command line: what was expected and what was found, in a few words. (CLI11's own accept
// integers that don't fit and print limits with all their digits.)

#include <CLI/CLI.hpp>
#include <cstdint>

namespace moelora::cli {

/// A whole number, smallest … largest.
CLI::Validator whole_number(std::uint64_t smallest, std::uint64_t largest = 1'000'000'000);
/// A finite number, above `above` and at most `largest`.
CLI::Validator number_above(double above, double largest);

}  // namespace moelora::cli
