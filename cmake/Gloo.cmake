# Several processes: libtorch_cpu.so holds the Gloo backend, but its header includes gloo's own, which no LibTorch
# carries. Debian's libgloo-dev has them (its library is not linked). Without them all but process groups is built.
find_path(MOELORA_GLOO_INCLUDE_DIR gloo/rendezvous/store.h DOC "Folder that holds gloo/rendezvous/store.h")
set(_gloo_header ${MOELORA_LIBTORCH_ROOT}/include/torch/csrc/distributed/c10d/ProcessGroupGloo.hpp)
# One file, compiled alone: the headers are heavy, and the definition must not reach others.
set_source_files_properties(${CMAKE_SOURCE_DIR}/src/train/gloo.cpp PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
if(MOELORA_GLOO_INCLUDE_DIR AND EXISTS ${_gloo_header})
  message(STATUS "Process groups: gloo's headers in ${MOELORA_GLOO_INCLUDE_DIR}")
  set_source_files_properties(${CMAKE_SOURCE_DIR}/src/train/gloo.cpp PROPERTIES COMPILE_DEFINITIONS USE_C10D_GLOO)
  if(NOT MOELORA_GLOO_INCLUDE_DIR IN_LIST CMAKE_CXX_IMPLICIT_INCLUDE_DIRECTORIES)
    set_source_files_properties(${CMAKE_SOURCE_DIR}/src/train/gloo.cpp PROPERTIES
      COMPILE_OPTIONS -isystem${MOELORA_GLOO_INCLUDE_DIR})
  endif()
  # Between GPUs NCCL: the headers of the version that LibTorch's wheel is linked with lie beside it.
  if(MOELORA_CUDA)
    find_path(MOELORA_NCCL_INCLUDE_DIR nccl.h HINTS ${MOELORA_LIBTORCH_ROOT}/../nvidia/nccl/include
      ${MOELORA_LIBTORCH_ROOT}/nvidia/nccl/include DOC "Folder that holds nccl.h")
    if(MOELORA_NCCL_INCLUDE_DIR)
      message(STATUS "Process groups of GPUs: NCCL, its header in ${MOELORA_NCCL_INCLUDE_DIR}")
      set_property(SOURCE ${CMAKE_SOURCE_DIR}/src/train/gloo.cpp APPEND PROPERTY COMPILE_DEFINITIONS USE_C10D_NCCL)
      set_property(SOURCE ${CMAKE_SOURCE_DIR}/src/train/gloo.cpp APPEND PROPERTY
        COMPILE_OPTIONS -isystem${MOELORA_NCCL_INCLUDE_DIR})
    else()
      message(STATUS "Process groups of GPUs: by way of the host (nccl.h is missing)")
    endif()
  endif()
else()
  message(STATUS "Process groups: none (gloo's headers are missing; Debian: libgloo-dev)")
endif()
