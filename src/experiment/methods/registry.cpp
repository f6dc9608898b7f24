#include "experiment/methods/registry.h"

#include "moelora/io/error.h"
#include "moelora/io/json_reader.h"

namespace moelora::experiment {

namespace {

/// Also those that this build does not have.
const std::vector<MethodPtr>& known_methods() {
  static const std::vector<MethodPtr> all = [] {
    std::vector<MethodPtr> methods;
    for (const auto& of_file :
         {base_methods(), p_tuning_methods(), lora_methods(), high_rank_lora_methods(), composition_methods(),
          lorahub_methods(), molora_methods(), mtl_lora_methods(), moelora_methods(), full_methods()}) {
      methods.insert(methods.end(), of_file.begin(), of_file.end());
    }
    return methods;
  }();
  return all;
}

}  // namespace

const std::vector<MethodPtr>& methods() {
  static const std::vector<MethodPtr> present = [] {
    std::vector<MethodPtr> methods = known_methods();
    std::erase_if(methods, [](const MethodPtr& method) { return !method->missing().empty(); });
    return methods;
  }();
  return present;
}

const Method& find_method(const std::string& key) {
  std::vector<std::string> known;
  for (const MethodPtr& method : known_methods()) {
    const std::string missing = method->missing();
    if (method->key() == key) {
      MOELORA_CHECK(missing.empty(), "no method '", key, "': ", missing);
      return *method;
    }
    if (missing.empty()) {
      known.push_back(method->key());
    }
  }
  throw Error("no method '" + key + "'" + io::suggestion(key, known));
}

const Method& method_with(Role role) {
  for (const MethodPtr& method : methods()) {
    if (method->role() == role) {
      return *method;
    }
  }
  throw Error("no method has the role that was asked for");
}

AllOwnSettings default_own_settings() {
  AllOwnSettings all;
  for (const MethodPtr& method : known_methods()) {
    if (auto settings = method->own_settings()) {
      all.add(std::move(settings));
    }
  }
  return all;
}

}  // namespace moelora::experiment
