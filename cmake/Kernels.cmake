# Loops compiled once for each instruction set; the program chooses when it runs (src/nn/kernels/cpu/cpu_kernels.h). The
# flags reach nothing else: these files see neither LibTorch nor each other's code.
set(MOELORA_INSTRUCTION_SETS plain)
set(MOELORA_FLAGS_plain "")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  list(APPEND MOELORA_INSTRUCTION_SETS avx2 avx512)
  # Products and sums are contracted only where a kernel says so with AVX2, and wherever they can be with AVX-512:
  # results, trained adapters among them, depend on it.
  set(MOELORA_FLAGS_avx2 -march=x86-64-v3 -ffp-contract=off)
  # g++ 12 warns of its own AVX-512 header's deliberately undefined values.
  set(MOELORA_FLAGS_avx512 -march=x86-64-v4 -mprefer-vector-width=512 -ffp-contract=fast
    -Wno-uninitialized -Wno-maybe-uninitialized)
endif()

# moelora_for_each_instruction_set(NAME SOURCES…): object libraries moelora_NAME_<set>, whose sources find the set's name
# in MOELORA_ISA; NAME_<set> of all sets are returned in MOELORA_KERNELS_<NAME>, each as a room that others may import.
function(moelora_for_each_instruction_set name)
  set(rooms)
  foreach(set IN LISTS MOELORA_INSTRUCTION_SETS)
    add_library(moelora_${name}_${set} OBJECT ${ARGN})
    target_link_libraries(moelora_${name}_${set} PRIVATE moelora_settings)
    target_compile_definitions(moelora_${name}_${set} PRIVATE MOELORA_ISA=${set})
    target_compile_options(moelora_${name}_${set} PRIVATE
      -O3 -fno-math-errno -fno-trapping-math -fopenmp-simd ${MOELORA_FLAGS_${set}})
    list(APPEND rooms ${name}_${set})
    set(MOELORA_ROOM_${name}_${set} ${name}_${set} PARENT_SCOPE)
  endforeach()
  set(MOELORA_KERNELS_${name} ${rooms} PARENT_SCOPE)
endfunction()

set(kernels ${CMAKE_SOURCE_DIR}/src/nn/kernels/cpu)
file(GLOB kernel_sources CONFIGURE_DEPENDS ${kernels}/isa/*.cpp)
moelora_for_each_instruction_set(kernels ${kernel_sources})
if("avx2" IN_LIST MOELORA_INSTRUCTION_SETS)
  set_source_files_properties(${kernels}/cpu_kernels.cpp PROPERTIES COMPILE_DEFINITIONS MOELORA_X86_KERNELS)
endif()

# LibTorch's own BLAS, called directly where it can be (nn/kernels/cpu/gemm.h).
include(CheckCXXSourceCompiles)
set(CMAKE_REQUIRED_LIBRARIES moelora_libtorch)
check_cxx_source_compiles("
  extern \"C\" void sgemm_(const char*, const char*, const int*, const int*, const int*, const float*, const float*,
                          const int*, const float*, const int*, const float*, float*, const int*);
  int main() { sgemm_(nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr,
                      nullptr, nullptr); }" MOELORA_HAVE_SGEMM)
unset(CMAKE_REQUIRED_LIBRARIES)
if(MOELORA_HAVE_SGEMM)
  set_source_files_properties(${kernels}/gemm.cpp PROPERTIES COMPILE_DEFINITIONS MOELORA_HAVE_SGEMM)
endif()

# Device code travels as text: NVRTC compiles it for the card when the program runs (nn/kernels/cuda/launcher.h).
file(GLOB device_code CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/nn/kernels/cuda/code/*.cuh)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${device_code})
set(MOELORA_DEVICE_SOURCES ${CMAKE_BINARY_DIR}/generated/device_sources.cpp)
set(text "// Written by cmake/Kernels.cmake.\n#include \"nn/kernels/cuda/device_sources.h\"\n\n")
string(APPEND text "namespace moelora::nn::kernels {\n\nconst std::map<std::string, std::string>& device_sources() {\n"
  "  static const std::map<std::string, std::string> sources{\n")
foreach(file IN LISTS device_code)
  get_filename_component(name ${file} NAME)
  file(READ ${file} source)
  string(APPEND text "{\"${name}\", R\"cuda(${source})cuda\"},\n")
endforeach()
string(APPEND text "  };\n  return sources;\n}\n\n}  // namespace moelora::nn::kernels\n")
file(CONFIGURE OUTPUT ${MOELORA_DEVICE_SOURCES} CONTENT "${text}" @ONLY)
set(MOELORA_GENERATED_nn ${MOELORA_DEVICE_SOURCES})

# Its threads change by longjmp, and a checked longjmp takes a jump to another stack for an error.
set_source_files_properties(${CMAKE_SOURCE_DIR}/src/nn/kernels/cuda/host_threads.cpp PROPERTIES
  SKIP_UNITY_BUILD_INCLUSION ON SKIP_PRECOMPILE_HEADERS ON COMPILE_OPTIONS -U_FORTIFY_SOURCE)
