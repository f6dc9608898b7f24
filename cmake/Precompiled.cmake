# LibTorch's headers take more than half of what it takes to compile a source of this project. They are compiled once for
# the library and programs and once for the tests (MOELORA_PRECOMPILE), and loaded ready-made everywhere else.

# moelora_precompiled_headers(NAME SETTINGS headers…): what moelora_precompiled offers, compiled with SETTINGS.
function(moelora_precompiled_headers name settings)
  if(NOT MOELORA_PRECOMPILE)
    return()
  endif()
  file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/generated/${name}.cpp CONTENT "// Written by cmake/Precompiled.cmake.\n")
  add_library(${name} OBJECT ${CMAKE_BINARY_DIR}/generated/${name}.cpp)
  target_link_libraries(${name} PRIVATE ${settings} moelora_libtorch nlohmann_json::nlohmann_json)
  target_precompile_headers(${name} PRIVATE <torch/nn/module.h> <torch/csrc/autograd/custom_function.h> <ATen/ATen.h>
    <nlohmann/json.hpp> ${ARGN})
endfunction()

# moelora_precompiled(TARGET [NAME]): TARGET's sources find the headers of NAME (that of the library) compiled. A source
# still includes what it uses: builds without MOELORA_PRECOMPILE, and clang-tidy, see nothing else.
function(moelora_precompiled target)
  if(NOT MOELORA_PRECOMPILE)
    return()
  endif()
  set(name moelora_headers)
  if(ARGC GREATER 1)
    set(name ${ARGV1})
  endif()
  target_precompile_headers(${target} REUSE_FROM ${name})
  # Compiled headers serve code with the same flags only, and programs would be given -fPIE.
  set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
  target_compile_options(${target} PRIVATE -fPIC)
endfunction()

moelora_precompiled_headers(moelora_headers moelora_settings)
