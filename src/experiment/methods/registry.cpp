#include "experiment/methods/registry.h"

#include "moelora/io/error.h"
#include "moelora/io/json_reader.h"

namespace moelora::experiment {

const std::vector<MethodPtr>& methods() {
  static const std::vector<MethodPtr> all = [] {
    std::vector<MethodPtr> rows;
    for (const auto& of_file : {base_methods(), p_tuning_methods(), lora_methods(), composition_methods(),
                                lorahub_methods(), molora_methods(), moelora_methods(), full_methods()}) {
      rows.insert(rows.end(), of_file.begin(), of_file.end());
    }
    return rows;
  }();
  return all;
}

const Method& find_method(const std::string& key) {
  std::vector<std::string> known;
  for (const MethodPtr& method : methods()) {
    if (method->key() == key) {
      return *method;
    }
    known.push_back(method->key());
  }
  throw Error("no method '" + key + "'" + io::suggestion(key, known));
}

}  // namespace moelora::experiment
