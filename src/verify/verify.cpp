#include "moelora/verify/verify.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>

#include "golden.h"
#include "moelora/adapter/foreign.h"
#include "moelora/io/error.h"
#include "moelora/io/finite.h"
#include "moelora/io/json_file.h"
#include "moelora/io/json_text.h"
#include "moelora/io/safetensors.h"
#include "moelora/model/registry.h"

namespace moelora::verify {
namespace {

namespace fs = std::filesystem;

bool is_golden_base(const fs::path& folder) {
  return fs::exists(folder / "config.json") && fs::exists(folder / "golden.safetensors");
}

// A model's folder may hold pytorch_model.bin too, but has a config.json.
bool is_golden_prefix(const fs::path& folder) {
  return fs::exists(folder / "golden.safetensors") &&
         (fs::exists(folder / "prefix_encoder.safetensors") ||
          (fs::exists(folder / "pytorch_model.bin") && !fs::exists(folder / "config.json")));
}

// A base that an adapter's goldens of this library can belong to: a graph that it computes, with the batches that they
// share.
bool fits_adapters(const fs::path& folder) {
  if (!is_golden_base(folder)) {
    return false;
  }
  try {
    model::read_config(io::read_json_file(folder / "config.json"));
    const io::SafetensorsFile golden(folder / "golden.safetensors");
    const auto& entries = golden.entries();
    return entries.contains("prompt.input_ids") && std::any_of(entries.begin(), entries.end(), [](const auto& entry) {
             return entry.first.ends_with(".labels");
           });
  } catch (const Error&) {
    return false;
  }
}

fs::path find_base(const fs::path& folder, const VerifyOptions& options) {
  if (!options.base.empty()) {
    MOELORA_CHECK(is_golden_base(options.base), "--base ", options.base.string(),
                  " must be a model folder with config.json and golden.safetensors");
    return options.base;
  }
  std::vector<fs::path> found;
  for (fs::path parent = fs::absolute(folder).parent_path(); found.empty() && parent.has_relative_path();
       parent = parent.parent_path()) {
    for (const auto& entry : fs::directory_iterator(parent, fs::directory_options::skip_permission_denied)) {
      if (entry.is_directory() && fits_adapters(entry.path())) {
        found.push_back(entry.path());
      }
    }
    if (parent == parent.parent_path() || parent.filename() == "fixtures") {
      break;
    }
  }
  MOELORA_CHECK(found.size() == 1,
                "the adapter's goldens need their base; expected one model folder with goldens beside ",
                folder.string(), ", found ", found.size(), "; name it with --base");
  return found.front();
}

bool holds_tokenizer(const fs::path& folder) {
  const auto family = model::family_of_tokenizer(folder);
  return family != nullptr && family->holds_tokenizer(folder);
}

bool has_tokenizer_goldens(const fs::path& folder) {
  for (const char* name :
       {"pairs.json", "options.json", "sp_options.json", "decode.json", "process_response.json", "build_inputs.json"}) {
    if (fs::exists(folder / name)) {
      return true;
    }
  }
  return !files_like(folder, "processor_", ".json").empty();
}

// Files of golden tensors that no check looked into: a name that this version does not know must not pass for verified.
void list_unread_goldens(const fs::path& folder, VerifyReport& report) {
  for (const auto& [name, path] : files_like(folder, "", ".safetensors")) {
    const std::string file = path.filename().string();
    const auto is_of_file = [&](const std::string& entry) { return entry.starts_with(file); };
    const bool input = name.starts_with("model") || name == "adapter_model" || name == "prefix_encoder";
    if (!input &&
        std::none_of(report.comparisons.begin(), report.comparisons.end(),
                     [&](const Comparison& one) { return is_of_file(one.name); }) &&
        std::none_of(report.not_compared.begin(), report.not_compared.end(), is_of_file)) {
      report.not_compared.push_back(file);
    }
  }
}

}  // namespace

bool VerifyReport::passed() const {
  return not_compared.empty() && !comparisons.empty() &&
         std::all_of(comparisons.begin(), comparisons.end(), [](const Comparison& one) { return one.passed; });
}

nlohmann::ordered_json VerifyReport::to_json() const {
  nlohmann::ordered_json json{{"passed", passed()}, {"comparisons", nlohmann::ordered_json::array()}};
  for (const Comparison& one : comparisons) {
    nlohmann::ordered_json entry{{"name", one.name},
                                 {"passed", one.passed},
                                 {"values", one.values},
                                 {"difference", one.difference},
                                 {"tolerance", one.tolerance}};
    if (!one.detail.empty()) {
      entry["detail"] = one.detail;
    }
    json["comparisons"].push_back(std::move(entry));
  }
  json["not_compared"] = not_compared;
  json["skipped"] = skipped;
  return json;
}

std::string VerifyReport::to_text() const {
  std::string text;
  std::int64_t values = 0;
  std::size_t failed = 0;
  const Comparison* nearest = nullptr;  // the comparison that came nearest to its tolerance
  for (const Comparison& one : comparisons) {
    values += one.values;
    if (one.passed) {
      if (one.tolerance > 0 &&
          (nearest == nullptr || one.difference / one.tolerance > nearest->difference / nearest->tolerance)) {
        nearest = &one;
      }
      continue;
    }
    ++failed;
    char numbers[96];
    std::snprintf(numbers, sizeof numbers, "difference %.3g, tolerance %.3g", one.difference, one.tolerance);
    text += "FAILED  " + one.name + ": " + (one.detail.empty() ? numbers : one.detail) + "\n";
  }
  for (const std::string& name : not_compared) {
    text += "NOT COMPARED  " + name + "\n";
  }
  for (const std::string& reason : skipped) {
    text += "skipped  " + reason + "\n";
  }
  text += std::to_string(comparisons.size()) + " comparisons of " + std::to_string(values) +
          " values: " + std::to_string(failed) + " failed, " + std::to_string(not_compared.size()) +
          " golden tensors not compared";
  if (nearest != nullptr) {
    char numbers[64];
    std::snprintf(numbers, sizeof numbers, "%.2g of %.2g", nearest->difference, nearest->tolerance);
    text += "; nearest to its tolerance: " + nearest->name + " (" + numbers + ")";
  }
  return text + "\n" + (passed() ? "PASSED" : "FAILED") + "\n";
}

VerifyReport verify_folder(const fs::path& folder, const VerifyOptions& options) {
  MOELORA_CHECK(fs::is_directory(folder), "no folder at ", folder.string());
  MOELORA_CHECK(std::isfinite(options.tolerance_factor) && options.tolerance_factor > 0.0,
                "the tolerance factor must be a finite number above 0, found ", options.tolerance_factor);
  VerifyReport report;
  bool found = false;
  bool takes_base = false;
  const auto part = [&](const std::string& name, const std::function<void()>& check) {
    found = true;
    const std::size_t compared = report.comparisons.size();
    try {
      check();
    } catch (const io::NotFinite& error) {
      Comparison failed;
      failed.name = name;
      failed.detail = error.what();
      report.comparisons.push_back(std::move(failed));
    }
    if (report.comparisons.size() == compared) {
      report.not_compared.push_back(name + ": nothing was compared");
    }
  };
  try {
    if (holds_sequences(folder)) {
      part("sequences", [&] { verify_sequences(folder, options, report); });
    } else if (fs::exists(folder / "config.json") || !files_like(folder, "rotary_dim", ".safetensors").empty()) {
      part("graph", [&] { verify_graph(folder, options, report); });
    }
    if (holds_recorded_texts(folder)) {
      takes_base = true;
      part("recorded texts", [&] { verify_recorded_texts(folder, options, report); });
    }
    if (fs::exists(folder / "adapter_config.json") && fs::exists(folder / "golden.safetensors")) {
      takes_base = true;
      const ForeignFormat format = detect_foreign(folder);
      const fs::path base = find_base(folder, options);
      part("adapter", [&] {
        format == ForeignFormat::moelora_peft ? verify_moelora(folder, base, options, report)
                                              : verify_lora(folder, base, options, report);
      });
    }
    if (is_golden_prefix(folder)) {
      takes_base = true;
      part("prefix", [&] { verify_prefix(folder, find_base(folder, options), options, report); });
    }
    if (has_tokenizer_goldens(folder) && holds_tokenizer(folder)) {
      part("tokenizer", [&] { verify_tokenizer(folder, report); });
    }
    if (fs::exists(folder / "tokenizer_golden.json")) {
      MOELORA_CHECK(holds_tokenizer(folder), folder.string(),
                    " has tokenizer_golden.json, but no tokenizer that this version reads beside it");
      part("tokenizer", [&] { verify_tokenizer_golden(folder, report); });
    }
    if (fs::exists(folder / "expected_metrics.json") || fs::exists(folder / "rouge_pairs.json")) {
      part("metrics", [&] { verify_metrics(folder, report); });
    }
  } catch (const nlohmann::json::exception& error) {
    throw Error(folder.string() +
                ": a golden JSON file has another form than expected: " + io::plain_json_message(error.what()));
  }
  if (!options.base.empty() && !takes_base) {
    report.skipped.push_back("--base " + options.base.string() +
                             ": not used, because nothing here was recorded with a base of another folder");
  }
  MOELORA_CHECK(
      found, folder.string(),
      " holds nothing that this version compares; expected golden.safetensors beside config.json, "
      "adapter_config.json or prefix_encoder.safetensors, or a tokenizer's or the scorer's golden JSON files");
  list_unread_goldens(folder, report);
  return report;
}

}  // namespace moelora::verify
