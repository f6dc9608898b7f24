#pragma once
// Tests of errors: what was thrown, and does its text say what the user needs?

#include <gtest/gtest.h>

#include <string>

#include "moelora/io/error.h"

namespace moelora::io {

/// Success if `action` throws moelora::Error whose text contains `part`; any other exception fails too.
template <typename Action>
::testing::AssertionResult raises(Action&& action, const std::string& part) {
  try {
    action();
  } catch (const Error& error) {
    if (std::string(error.what()).find(part) != std::string::npos) {
      return ::testing::AssertionSuccess();
    }
    return ::testing::AssertionFailure() << "expected an error with \"" << part << "\", found: " << error.what();
  } catch (const std::exception& error) {
    return ::testing::AssertionFailure() << "expected moelora::Error, found another exception: " << error.what();
  }
  return ::testing::AssertionFailure() << "expected an error with \"" << part << "\", found none";
}

}  // namespace moelora::io
