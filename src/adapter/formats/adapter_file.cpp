#include "moelora/adapter/adapter_file.h"

#include <ATen/ATen.h>

#include <nlohmann/json.hpp>

#include "adapter/formats/adapter_loading.h"
#include "moelora/adapter/delta_kind.h"
#include "moelora/io/atomic_file.h"
#include "moelora/io/error.h"
#include "moelora/io/file_kind.h"
#include "moelora/io/json_file.h"
#include "moelora/io/json_reader.h"
#include "moelora/io/provenance.h"
#include "moelora/io/sha256.h"
#include "moelora/log/log.h"

namespace moelora {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr const char* kDescription = "adapter.json";
constexpr const char* kTensors = "adapter.safetensors";
constexpr const char* kFormat = "moelora-adapter";
constexpr std::int64_t kFormatVersion = 1;

/// SHA-256 of the content without the key `checksum`: independent of indentation.
std::string own_checksum(ordered_json json) {
  json.erase("checksum");
  return io::sha256_of(json.dump(-1, ' ', false, ordered_json::error_handler_t::replace));
}

struct Description {
  AdapterInfo info;
  std::string tensors_sha256;
};

std::string text_of(const ordered_json& json, const char* key) {
  const auto found = json.find(key);
  return found == json.end() ? "nothing" : found->dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

/// Top-level keys that the writer declared as safe to ignore and that this version does not know.
void drop_optional_keys(ordered_json& json) {
  static const std::set<std::string> known{
      "format",         "format_version",        "optional",  "tasks", "config", "base_fingerprint", "checksum",
      "tensors_sha256", "tokenizer_fingerprint", "provenance"};
  const auto optional = json.find("optional");
  if (optional == json.end() || !optional->is_array()) {
    return;
  }
  std::vector<std::string> names;
  for (const auto& name : *optional) {
    if (name.is_string() && !known.contains(name.get<std::string>())) {
      names.push_back(name.get<std::string>());
    }
  }
  for (const auto& name : names) {
    json.erase(name);
  }
}

Description read_description(const fs::path& folder) {
  const fs::path path = folder / kDescription;
  MOELORA_CHECK(fs::exists(folder), "no adapter folder ", folder.string());
  MOELORA_CHECK(fs::exists(path), "expected an adapter folder with ", kDescription, " in ", folder.string(),
                fs::exists(folder / "adapter_config.json")
                    ? ", found another program's adapter (adapter_config.json); import it first"
                    : ", found none; name the folder that training or import wrote");
  ordered_json json = io::read_json_file(path);
  MOELORA_CHECK(json.is_object() && json.contains("format") && json["format"] == kFormat, path.string(),
                ": expected \"format\": \"", kFormat, "\", found ",
                json.is_object() ? text_of(json, "format") : "no object", "; this is not an adapter of this library");
  MOELORA_CHECK(json.contains("format_version") && json["format_version"] == kFormatVersion, path.string(),
                ": expected format version ", kFormatVersion, ", found ", text_of(json, "format_version"),
                "; read it with the version of the program that wrote it");
  const std::string checksum = own_checksum(json);
  MOELORA_CHECK(json.contains("checksum") && json["checksum"] == checksum, path.string(),
                " is damaged or was edited: expected checksum ", text_of(json, "checksum"), ", found ", checksum,
                "; copy the adapter again from where it was written");
  drop_optional_keys(json);

  Description description;
  std::string ignored_text;
  ordered_json ignored;
  ordered_json config;
  std::vector<std::string> tasks;
  io::JsonReader reader(json, path.string());
  reader.read("format", ignored_text);
  reader.read("format_version", ignored);
  reader.read("checksum", ignored_text);
  reader.read("optional", ignored);
  reader.read("provenance", ignored);
  reader.read("base_fingerprint", description.info.base_fingerprint);
  reader.read("tokenizer_fingerprint", description.info.tokenizer_fingerprint);
  for (const auto* key : {"tasks", "config", "tensors_sha256"}) {
    if (!reader.has(key)) {
      reader.problem(key, "is missing; the file was not written by this program, or was cut");
    }
  }
  reader.read("tasks", tasks);
  reader.read("config", config);
  reader.read("tensors_sha256", description.tensors_sha256);
  reader.finish();
  try {
    description.info.config = MoeLoraConfig::from_json(config);
    description.info.tasks = TaskNames(std::move(tasks));
  } catch (const Error& error) {
    throw Error(path.string() + ": " + error.what());
  }
  return description;
}

void check_fingerprint(const std::string& what, const std::string& recorded, const std::string& actual,
                       const fs::path& folder, const std::string& hint = "") {
  if (actual.empty()) {
    return;
  }
  if (recorded.empty()) {
    log::warning("the adapter in " + folder.string() + " does not record its " + what +
                 "'s fingerprint, so whether this is the right " + what + " was not checked");
    return;
  }
  MOELORA_CHECK(recorded == actual, "the adapter in ", folder.string(), " belongs to another ", what,
                ": expected the fingerprint ", recorded, ", found ", actual, "; load it with the ", what,
                " that it was trained with", hint);
}

/// What else a fingerprint may hold that the file's does not.
std::string saved_modules_hint(const MoeLoraConfig& config) {
  std::string names;
  for (const std::string& name : config.modules_to_save) {
    names += (names.empty() ? "" : ", ") + name;
  }
  return names.empty() ? ""
                       : "; where its modules_to_save (" + names +
                             ") start from random values, leave them out of "
                             "both fingerprints: fingerprint(base, config.modules_to_save)";
}

}  // namespace

void check_replaceable(const fs::path& folder, const std::set<std::string>& own) {
  if (!fs::is_directory(folder)) {
    return;  // absent, or a file, which AtomicFolder refuses
  }
  for (const auto& entry : fs::directory_iterator(folder)) {
    MOELORA_CHECK(own.contains(entry.path().filename().string()), "cannot write an adapter to ", folder.string(),
                  ": it holds ", entry.path().filename().string(),
                  ", which would be deleted; choose a new or empty folder");
  }
}

bool is_adapter_folder(const fs::path& folder) { return fs::is_regular_file(folder / kDescription); }

void save_adapter(const AdapterImpl& adapter, const fs::path& folder, const std::string& base_fingerprint,
                  const std::string& tokenizer_fingerprint) {
  save_adapter(adapter, folder, base_fingerprint, tokenizer_fingerprint, io::provenance());
}

void save_adapter(const AdapterImpl& adapter, const fs::path& folder, const std::string& base_fingerprint,
                  const std::string& tokenizer_fingerprint, const ordered_json& provenance) {
  check_replaceable(folder, {kDescription, kTensors});
  io::NamedTensors tensors;
  for (const auto& [name, tensor] : adapter_tensors(adapter)) {
    tensors.emplace_back(name, tensor.detach().to(at::kCPU, at::kFloat));
  }
  io::AtomicFolder target(folder);
  io::save_safetensors(target.path() / kTensors, tensors, {{"format", kFormat}});
  ordered_json json{{"format", kFormat},
                    {"format_version", kFormatVersion},
                    {"tasks", adapter.tasks().names()},
                    {"config", adapter.config().to_json()},
                    {"base_fingerprint", base_fingerprint},
                    {"tokenizer_fingerprint", tokenizer_fingerprint},
                    {"tensors_sha256", io::sha256_of_file(target.path() / kTensors)},
                    {"provenance", provenance}};
  json["checksum"] = own_checksum(json);
  io::write_json_file(target.path() / kDescription, json);
  target.commit();
}

ordered_json read_provenance(const fs::path& folder) {
  const ordered_json json = io::read_json_file(folder / kDescription);
  const auto found = json.find("provenance");
  return found != json.end() && found->is_object() ? *found : ordered_json::object();
}

AdapterInfo read_adapter_info(const fs::path& folder) { return read_description(folder).info; }

std::map<std::string, LinearSize> adapted_linears(const fs::path& folder) {
  const DeltaKind& kind = delta_kind(read_adapter_info(folder).config.delta);
  std::map<std::string, std::map<std::string, Shape>> shapes;  // by linear and tensor
  const io::SafetensorsFile file(folder / kTensors);
  for (const auto& [name, info] : file.entries()) {
    if (const auto place = linear_tensor_place(name)) {
      shapes[place->first][place->second] = info.shape;
    }
  }
  std::map<std::string, LinearSize> linears;
  for (const auto& [name, of_linear] : shapes) {
    const auto size = kind.size(of_linear);
    MOELORA_CHECK(size && size->in_features > 0 && size->out_features > 0, folder.string(),
                  ": expected the tensors of ", name, " as delta \"", kind.name,
                  "\" has them, found others; copy the whole adapter folder");
    linears.emplace(name, *size);
  }
  return linears;
}

Adapter load_adapter(torch::nn::Module& base, const fs::path& folder, const std::string& base_fingerprint,
                     const std::string& tokenizer_fingerprint, const std::string& name) {
  Description description = read_description(folder);
  check_fingerprint("base", description.info.base_fingerprint, base_fingerprint, folder,
                    saved_modules_hint(description.info.config));
  check_fingerprint("tokenizer", description.info.tokenizer_fingerprint, tokenizer_fingerprint, folder);
  const fs::path path = folder / kTensors;
  MOELORA_CHECK(fs::exists(path), "expected ", path.string(), " beside ", kDescription,
                ", found none; copy the whole adapter folder");
  io::check_no_lfs_pointer(path);  // it would show as damage
  const std::string sha256 = io::sha256_of_file(path);
  MOELORA_CHECK(sha256 == description.tensors_sha256, path.string(), " is damaged: expected SHA-256 ",
                description.tensors_sha256, ", found ", sha256, "; copy the adapter again from where it was written");
  return inject_filled(base, description.info.config, std::move(description.info.tasks), name,
                       io::load_safetensors(path), path.string());
}

}  // namespace moelora
