# Provides the imported target moelora_libtorch (LibTorch for C++, from a folder that holds include/ and lib/).
#
# Where it comes from, first hit wins:
#   1. MOELORA_LIBTORCH_ROOT, or an entry of CMAKE_PREFIX_PATH, that holds include/ATen/ATen.h
#   2. the PyPI wheel, downloaded once into MOELORA_LIBTORCH_DOWNLOAD_DIR
#
# find_package(Torch) is not used: that of a CUDA wheel demands nvcc even for programs that never touch a GPU.

set(MOELORA_LIBTORCH_ROOT "" CACHE PATH "Folder of a LibTorch (holds include/ and lib/); empty: search, then download")
set(MOELORA_LIBTORCH_VERSION 2.11.0 CACHE STRING "Version of the wheel to download (2.10.0 or 2.7.1 for V100)")
set(MOELORA_LIBTORCH_DOWNLOAD_DIR ${CMAKE_BINARY_DIR}/libtorch CACHE PATH "Where a downloaded LibTorch is unpacked")
option(MOELORA_CUDA "Link LibTorch's CUDA libraries too" OFF)

# Only headers and libraries of the wheels are used, so which Python runs pip does not matter.
function(_moelora_pip dir)
  execute_process(
    COMMAND ${MOELORA_PYTHON} -m pip install --quiet --disable-pip-version-check --root-user-action=ignore
            --no-cache-dir --timeout 60 --only-binary=:all: --python-version 3.11 --target ${dir} ${ARGN}
    RESULT_VARIABLE failed)
  if(failed)
    message(FATAL_ERROR "LibTorch could not be downloaded with '${MOELORA_PYTHON} -m pip' (${ARGN}). "
      "Install python3-pip, check the network, or point CMAKE_PREFIX_PATH to an unpacked LibTorch.")
  endif()
endfunction()

# NVIDIA's packages that the wheel unpacked in `dir` asks for: headers and libraries of CUDA, so that no toolkit is
# needed. Without MOELORA_CUDA the two that libtorch_cpu.so itself is linked with.
function(_moelora_cuda_packages dir out)
  file(GLOB metadata ${dir}/torch-*.dist-info/METADATA)
  file(STRINGS ${metadata} required REGEX "^Requires-Dist: (nvidia-|cuda-toolkit)")
  set(packages "")
  foreach(line IN LISTS required)
    string(REGEX MATCH "(nvidia-|cuda-toolkit)[^ ;]+" package "${line}")
    if(MOELORA_CUDA OR package MATCHES "^nvidia-cuda-(runtime|cupti)")
      list(APPEND packages ${package})
    elseif(package MATCHES "^cuda-toolkit.*(==.*)")  # one name for many packages (from CUDA 13 on)
      list(APPEND packages "cuda-toolkit[cudart,cupti]${CMAKE_MATCH_1}")
    endif()
  endforeach()
  set(${out} ${packages} PARENT_SCOPE)
endfunction()

# A folder with the final name is always complete: it is filled under another name, then renamed.
function(_moelora_download_libtorch dir)
  find_program(MOELORA_PYTHON NAMES python3 REQUIRED)
  get_filename_component(parent ${dir} DIRECTORY)
  file(MAKE_DIRECTORY ${parent})
  file(LOCK ${dir}.lock GUARD FUNCTION TIMEOUT 1800)
  if(EXISTS ${dir}/torch)  # another configure run finished it while this one waited
    return()
  endif()
  file(GLOB found ${dir}/*)
  if(found)
    message(FATAL_ERROR "MOELORA_LIBTORCH_DOWNLOAD_DIR=${dir} holds other files and no torch/: name an empty or a new folder.")
  endif()
  file(REMOVE_RECURSE ${dir})  # an empty one, made before
  set(size "about 0.6 GB")
  if(MOELORA_CUDA)
    set(size "with CUDA's libraries, 2 to 3 GB")
  endif()
  message(STATUS "Downloading LibTorch ${MOELORA_LIBTORCH_VERSION} (${size}) into ${dir}")
  file(REMOVE_RECURSE ${dir}.partial)
  _moelora_pip(${dir}.partial --no-deps torch==${MOELORA_LIBTORCH_VERSION})
  _moelora_cuda_packages(${dir}.partial packages)
  _moelora_pip(${dir}.partial ${packages})
  file(RENAME ${dir}.partial ${dir})
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
  if(NOT EXISTS ${MOELORA_LIBTORCH_DOWNLOAD_DIR}/torch)
    _moelora_download_libtorch(${MOELORA_LIBTORCH_DOWNLOAD_DIR})
  endif()
  set(MOELORA_LIBTORCH_ROOT ${MOELORA_LIBTORCH_DOWNLOAD_DIR}/torch CACHE PATH "" FORCE)
endif()
foreach(_file include/ATen/ATen.h lib/libtorch_cpu.so lib/libc10.so)
  if(NOT EXISTS ${MOELORA_LIBTORCH_ROOT}/${_file})
    message(FATAL_ERROR "MOELORA_LIBTORCH_ROOT=${MOELORA_LIBTORCH_ROOT} holds no ${_file}; "
      "remove that folder to download it again, or point MOELORA_LIBTORCH_ROOT to an unpacked LibTorch.")
  endif()
endforeach()
message(STATUS "LibTorch: ${MOELORA_LIBTORCH_ROOT}")

include(${CMAKE_CURRENT_LIST_DIR}/LibTorchTarget.cmake)
moelora_add_libtorch_target(${MOELORA_LIBTORCH_ROOT} ${MOELORA_CUDA})
# Where the libraries of CUDA lie that are linked, for the RPATH of what is installed.
set(MOELORA_CUDA_LIBRARY_DIRS "")
if(MOELORA_CUDA)
  get_target_property(MOELORA_CUDA_LIBRARY_DIRS moelora_libtorch MOELORA_CUDA_LIBRARY_DIRS)
endif()
