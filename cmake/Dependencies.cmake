# Debian packages: libsentencepiece-dev nlohmann-json3-dev libspdlog-dev libcli11-dev libgtest-dev libnlopt-dev;
# libgloo-dev (Gloo.cmake)
find_package(Threads REQUIRED)
find_package(nlohmann_json 3.11 REQUIRED)
find_package(spdlog REQUIRED)
find_package(CLI11 REQUIRED)
find_path(SENTENCEPIECE_INCLUDE_DIR sentencepiece_processor.h REQUIRED)
find_library(SENTENCEPIECE_LIBRARY sentencepiece REQUIRED)
find_library(SENTENCEPIECE_TRAIN_LIBRARY sentencepiece_train REQUIRED)
add_library(moelora_sentencepiece INTERFACE IMPORTED GLOBAL)
target_link_libraries(moelora_sentencepiece INTERFACE ${SENTENCEPIECE_LIBRARY})
# NLopt is LGPL in parts: linked as a shared library, never into ours.
find_path(NLOPT_INCLUDE_DIR nlopt.h REQUIRED)
find_library(NLOPT_LIBRARY nlopt REQUIRED)
add_library(moelora_nlopt INTERFACE IMPORTED GLOBAL)
target_include_directories(moelora_nlopt INTERFACE ${NLOPT_INCLUDE_DIR})
target_link_libraries(moelora_nlopt INTERFACE ${NLOPT_LIBRARY})

# Tables of the Python package jieba, for Rouge over words (cmake/setup.sh fetches them; the program works without them,
# and finds them when it runs: an installed one beside itself, others here).
set(MOELORA_JIEBA_DIR ${CMAKE_SOURCE_DIR}/build/jieba CACHE PATH "Folder of jieba's tables (may be absent)")
set_source_files_properties(${CMAKE_SOURCE_DIR}/src/eval/segmenter.cpp PROPERTIES
  COMPILE_DEFINITIONS "MOELORA_BUILT_JIEBA_DIR=\"${MOELORA_JIEBA_DIR}\"")
