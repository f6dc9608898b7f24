#pragma once
// How much memory there is, for those who are about to ask for much of it, and the error of having too little.

#include <exception>
#include <optional>

#include "moelora/io/error.h"

namespace moelora::io {

/// What was asked for does not fit into memory; the text says what to make smaller.
class OutOfMemory : public Error {
 public:
  using Error::Error;
};

/// Whether an exception of the standard library or of LibTorch means that memory ran out.
bool is_out_of_memory(const std::exception& error);

/// Bytes that programs can still have without swapping; nothing where the system does not say.
std::optional<double> available_memory();

/// OutOfMemory "WHAT takes … GB, … GB of memory are available; ADVICE" if `bytes` are more than that.
void check_memory(double bytes, const char* what, const char* advice);

}  // namespace moelora::io
