// What reads configurations of adapters, compiled once more with coverage and sanitizers.
#include "adapter/core/config.cpp"
#include "adapter/core/inject.cpp"
#include "adapter/core/task_names.cpp"
#include "adapter/formats/adapter_file.cpp"
#include "adapter/formats/foreign_config.cpp"
#include "adapter/formats/foreign_read.cpp"
