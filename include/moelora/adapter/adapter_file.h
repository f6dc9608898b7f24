#pragma once
// The library's own adapter format: a folder with adapter.safetensors (fp32) and adapter.json: format version, task
// names, configuration, fingerprints of base and tokenizer, SHA-256 of the tensors' file, provenance, and `checksum`,
// the SHA-256 of adapter.json's own content without that key.
//
// Versions: another `format_version` is an Error. Within a version a later program may add top-level keys; a reader
// that doesn't know a key ignores it only if the writer listed it under `optional`, else the key is an Error.

#include <filesystem>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "moelora/adapter/adapter.h"
#include "moelora/adapter/delta_kind.h"
#include "moelora/io/safetensors.h"

namespace moelora {

struct AdapterInfo {
  MoeLoraConfig config;
  TaskNames tasks;
  std::string base_fingerprint;       ///< Empty: not recorded (foreign adapters).
  std::string tokenizer_fingerprint;  ///< Empty: not recorded.
};

/// A path is an adapter folder of ours if it holds adapter.json.
bool is_adapter_folder(const std::filesystem::path& folder);

/// What save_adapter was told of the adapter's origin; an empty object without it.
nlohmann::ordered_json read_provenance(const std::filesystem::path& folder);

/// Tensors by their names in the file: "linears.<base linear name>.<name>" for each tensor of its delta
/// (nn::LinearDelta::tensors; of a MoeLoraLinear A, B and with token routing router),
/// "gate.task_embedding", "gate.weight" (per_linear: "gates.<base linear name>.task_embedding", ".weight"),
/// "prefix.embedding" and, with projection, "prefix.hidden.weight", "prefix.hidden.bias", "prefix.output.weight",
/// "prefix.output.bias"; "modules_to_save.<name in the base>" for what travels with the adapter, trained values.
io::NamedTensors adapter_tensors(const AdapterImpl& adapter);

/// Whether a tensor of that name belongs to a task gate or a token router: to what weighs experts, not to an expert.
bool is_routing_tensor(const std::string& name);

/// Writes both files into `folder`, which appears as a whole or not at all; an adapter that was there is replaced at
/// the last moment. Error if the folder holds anything else. `base_fingerprint`: fingerprint() of the base without
/// adapter (adapter/fingerprint.h; model::base_fingerprint for a language model). Without a provenance, that of this
/// process is stored (io::provenance()), otherwise the given one.
void save_adapter(const AdapterImpl& adapter, const std::filesystem::path& folder, const std::string& base_fingerprint,
                  const std::string& tokenizer_fingerprint = "");
void save_adapter(const AdapterImpl& adapter, const std::filesystem::path& folder, const std::string& base_fingerprint,
                  const std::string& tokenizer_fingerprint, const nlohmann::ordered_json& provenance);

/// Reads and checks adapter.json alone. Error: no such folder, another format version, broken JSON.
AdapterInfo read_adapter_info(const std::filesystem::path& folder);

/// The linears that the adapter in `folder` adapts, by name, as the shapes in its tensors' file say; none in one that
/// is a prefix alone. Needs no base. Error: as read_adapter_info(), or tensors that are not those of the adapter's
/// deltas.
std::map<std::string, LinearSize> adapted_linears(const std::filesystem::path& folder);

/// Injects and fills; after an Error the base is without the adapter. Error: checksum mismatch, missing / unexpected /
/// misshapen tensors, another base or tokenizer (an empty string skips that check).
Adapter load_adapter(torch::nn::Module& base, const std::filesystem::path& folder, const std::string& base_fingerprint,
                     const std::string& tokenizer_fingerprint = "", const std::string& name = "default");

/// Fills an injected adapter from tensors named as adapter_tensors names them; all problems in one Error.
void fill_adapter(AdapterImpl& adapter, const std::map<std::string, at::Tensor>& tensors, const std::string& origin);

}  // namespace moelora
