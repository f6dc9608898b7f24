# cmake --install BUILD --prefix P
#   P/bin/moelora, P/lib/libmoelora.a, P/include/moelora/…, P/lib/cmake/moelora/… for find_package(moelora),
#   P/share/moelora/jieba: jieba's tables, where they were fetched,
#   P/share/moelora/configs/…: the configurations,
#   P/lib/*.so: the few shared libraries that are neither the system's nor LibTorch's.
# The program looks for libraries in ../lib, in ../libtorch/lib and where LibTorch lay at build time: on a machine that
# has only LibTorch, put it (or a link to it) at P/libtorch, or name its lib folder in LD_LIBRARY_PATH. With CUDA it does
# the same for NVIDIA's libraries: those of pip's packages lie in nvidia/ beside LibTorch's folder (a link to LibTorch
# brings them along), those of a toolkit where they lay at build time.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(_package ${CMAKE_INSTALL_LIBDIR}/cmake/moelora)
install(DIRECTORY ${CMAKE_SOURCE_DIR}/include/moelora DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES ${CMAKE_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY ${MOELORA_JIEBA_DIR}/ DESTINATION ${CMAKE_INSTALL_DATADIR}/moelora/jieba OPTIONAL)
install(DIRECTORY ${CMAKE_SOURCE_DIR}/configs DESTINATION ${CMAKE_INSTALL_DATADIR}/moelora)
install(TARGETS moelora EXPORT moeloraTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT moeloraTargets NAMESPACE moelora:: DESTINATION ${_package})

configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/moeloraConfig.cmake.in
  ${CMAKE_BINARY_DIR}/moeloraConfig.cmake INSTALL_DESTINATION ${_package} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/moeloraConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/moeloraConfig.cmake ${CMAKE_BINARY_DIR}/moeloraConfigVersion.cmake
  ${CMAKE_CURRENT_LIST_DIR}/LibTorchTarget.cmake DESTINATION ${_package})

if(TARGET moelora_cli)
  get_filename_component(_beside_libtorch ${MOELORA_LIBTORCH_ROOT} DIRECTORY)
  set(_moved "")
  foreach(folder IN LISTS MOELORA_CUDA_LIBRARY_DIRS)
    string(FIND ${folder} ${_beside_libtorch}/ position)
    if(position EQUAL 0)
      file(RELATIVE_PATH folder ${MOELORA_LIBTORCH_ROOT}/lib ${folder})
      list(APPEND _moved $ORIGIN/../libtorch/lib/${folder})
    endif()
  endforeach()
  set_target_properties(moelora_cli PROPERTIES
    INSTALL_RPATH "$ORIGIN/../${CMAKE_INSTALL_LIBDIR};$ORIGIN/../libtorch/lib;${_moved};${MOELORA_LIBTORCH_ROOT}/lib;${MOELORA_CUDA_LIBRARY_DIRS}")
  # RPATH, not RUNPATH: it also serves what the copied libraries need themselves.
  target_link_options(moelora_cli PRIVATE LINKER:--disable-new-dtags)
  install(TARGETS moelora_cli RUNTIME_DEPENDENCY_SET moelora_dependencies DESTINATION ${CMAKE_INSTALL_BINDIR})
  install(RUNTIME_DEPENDENCY_SET moelora_dependencies
    DIRECTORIES ${MOELORA_LIBTORCH_ROOT}/lib
    PRE_EXCLUDE_REGEXES
      "^(ld-linux|libc|libm|libdl|librt|libpthread|libgcc_s|libstdc\\+\\+|libgomp|linux-vdso)[-.]"
      "^lib(torch|c10|shm|cuda|cudart|cupti|cublas|cublasLt|cudnn|cufft|cufile|curand|cusolver|cusparse|nccl|nv)"
    LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
endif()
