// All fuzzers in one program, compiled at once: MOELORA_FUZZ_TARGET names the one that runs.
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

#include "fuzz/adapter_fuzz.cpp"
#include "fuzz/checkpoint_fuzz.cpp"
#include "fuzz/config_fuzz.cpp"
#include "fuzz/fields_fuzz.cpp"
#include "fuzz/gguf_fuzz.cpp"
#include "fuzz/records_fuzz.cpp"
#include "fuzz/safetensors_fuzz.cpp"
#include "fuzz/tokenizer_fuzz.cpp"
#include "fuzz/tokenizer_json_fuzz.cpp"

namespace {

using Fuzzer = int (*)(const std::uint8_t* data, std::size_t size);

Fuzzer chosen() {
  static const std::map<std::string, Fuzzer> fuzzers{{"adapter", fuzz_adapter},
                                                     {"checkpoint", fuzz_checkpoint},
                                                     {"config", fuzz_config},
                                                     {"fields", fuzz_fields},
                                                     {"gguf", fuzz_gguf},
                                                     {"records", fuzz_records},
                                                     {"safetensors", fuzz_safetensors},
                                                     {"tokenizer", fuzz_tokenizer},
                                                     {"tokenizer_json", fuzz_tokenizer_json}};
  const char* name = std::getenv("MOELORA_FUZZ_TARGET");
  const auto found = fuzzers.find(name == nullptr ? "" : name);
  if (found == fuzzers.end()) {
    std::fprintf(stderr, "MOELORA_FUZZ_TARGET is '%s', expected one of:", name == nullptr ? "" : name);
    for (const auto& [known, fuzzer] : fuzzers) {
      std::fprintf(stderr, " %s", known.c_str());
    }
    std::fprintf(stderr, "\n");
    std::exit(2);
  }
  return found->second;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Fuzzer fuzzer = chosen();
  return fuzzer(data, size);
}
