#pragma once
// The files of code/ as text, put into the library by cmake/Kernels.cmake: NVRTC compiles them when the program runs.

#include <map>
#include <string>

namespace moelora::nn::kernels {

/// By file name ("dropout.cuh"), as they include each other.
const std::map<std::string, std::string>& device_sources();

}  // namespace moelora::nn::kernels
