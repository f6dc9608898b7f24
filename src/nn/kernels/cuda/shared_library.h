#pragma once

#include <dlfcn.h>

namespace moelora::nn::cuda {

/// Whether a library opened with dlopen has the function; its address in `function`.
template <typename Function>
bool find_function(void* library, const char* name, Function*& function) {
  function = reinterpret_cast<Function*>(dlsym(library, name));
  return function != nullptr;
}

}  // namespace moelora::nn::cuda
