# Provides the imported target moelora_libtorch (LibTorch for C++, from a folder that holds include/ and lib/).
#
# Where it comes from, first hit wins:
#   1. MOELORA_LIBTORCH_ROOT, or an entry of CMAKE_PREFIX_PATH, that holds include/ATen/ATen.h
#   2. the PyPI wheel, downloaded once into ${CMAKE_BINARY_DIR}/libtorch
#
# find_package(Torch) is not used: that of a CUDA wheel demands nvcc even for programs that never touch a GPU.

set(MOELORA_LIBTORCH_ROOT "" CACHE PATH "Folder of a LibTorch (holds include/ and lib/); empty: search, then download")
set(MOELORA_LIBTORCH_VERSION 2.11.0 CACHE STRING "Version of the wheel to download (2.7.1 for V100)")
option(MOELORA_CUDA "Link LibTorch's CUDA libraries too (needs the CUDA toolkit)" OFF)

function(_moelora_download_libtorch dir)
  find_program(MOELORA_PYTHON NAMES python3 REQUIRED)
  set(pip ${MOELORA_PYTHON} -m pip install --quiet --disable-pip-version-check --root-user-action=ignore
          --no-deps --target ${dir}.partial)
  message(STATUS "Downloading LibTorch ${MOELORA_LIBTORCH_VERSION} (about 530 MB) into ${dir}")
  set(packages torch==${MOELORA_LIBTORCH_VERSION})
  if(MOELORA_LIBTORCH_VERSION VERSION_LESS 2.8)
    list(APPEND packages nvidia-cuda-runtime-cu12==12.6.77 nvidia-cuda-cupti-cu12==12.6.80)
  else()
    list(APPEND packages nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85)
    if(MOELORA_CUDA)
      list(APPEND packages nvidia-cufile==1.15.1.6 nvidia-cusparselt-cu13==0.8.0 nvidia-nvshmem-cu13==3.4.5)
    endif()
  endif()
  file(REMOVE_RECURSE ${dir}.partial)
  execute_process(COMMAND ${pip} ${packages} RESULT_VARIABLE failed)
  if(failed)
    message(FATAL_ERROR "LibTorch could not be downloaded with '${MOELORA_PYTHON} -m pip'. "
      "Install python3-pip, check the network, or point CMAKE_PREFIX_PATH to an unpacked LibTorch.")
  endif()
  file(RENAME ${dir}.partial ${dir})  # a folder with this name is always complete
endfunction()

if(NOT MOELORA_LIBTORCH_ROOT)
  foreach(prefix IN LISTS CMAKE_PREFIX_PATH)
    if(EXISTS ${prefix}/include/ATen/ATen.h)
      set(MOELORA_LIBTORCH_ROOT ${prefix} CACHE PATH "" FORCE)
      break()
    endif()
  endforeach()
endif()
if(NOT MOELORA_LIBTORCH_ROOT)
  set(_dir ${CMAKE_BINARY_DIR}/libtorch)
  if(NOT EXISTS ${_dir}/torch/include/ATen/ATen.h)
    _moelora_download_libtorch(${_dir})
  endif()
  set(MOELORA_LIBTORCH_ROOT ${_dir}/torch CACHE PATH "" FORCE)
endif()
if(NOT EXISTS ${MOELORA_LIBTORCH_ROOT}/include/ATen/ATen.h)
  message(FATAL_ERROR "MOELORA_LIBTORCH_ROOT=${MOELORA_LIBTORCH_ROOT} holds no include/ATen/ATen.h")
endif()
message(STATUS "LibTorch: ${MOELORA_LIBTORCH_ROOT}")

include(${CMAKE_CURRENT_LIST_DIR}/LibTorchTarget.cmake)
moelora_add_libtorch_target(${MOELORA_LIBTORCH_ROOT} ${MOELORA_CUDA})
