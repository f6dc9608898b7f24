// moelora verify: this build against recorded outputs of the reference implementation.

#include "moelora/verify/verify.h"

#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/numbers.h"
#include "cli/session.h"
#include "cli/verbs.h"
#include "moelora/io/json_file.h"

namespace moelora::cli {
namespace {

struct VerifyVerbOptions {
  std::filesystem::path folder;
  std::filesystem::path json;
  std::string device = "cpu";
  std::string dtype = "float32";
  verify::VerifyOptions verify;
};

bool run_verify(VerifyVerbOptions& options) {
  options.verify.device = parse_device(options.device);
  options.verify.dtype = parse_dtype(options.dtype);
  const verify::VerifyReport report = verify::verify_folder(options.folder, options.verify);
  std::cout << report.to_text() << std::flush;
  if (!options.json.empty()) {
    io::write_json_file(options.json, report.to_json());
  }
  return report.passed();
}

}  // namespace

void add_verify(CLI::App& app, int& status) {
  auto* verb = app.add_subcommand("verify", "compare this build with recorded outputs of the reference");
  auto options = std::make_shared<VerifyVerbOptions>();
  verb->add_option("folder", options->folder, "folder of golden files; which ones decides what is compared")
      ->required();
  verb->add_option("--base", options->verify.base,
                   "model folder of an adapter's goldens (default: the sibling that fits)");
  verb->add_option("--json", options->json, "write the comparisons here");
  verb->add_option("--device", options->device, "cpu, cuda, cuda:N or auto")->capture_default_str();
  verb->add_option("--dtype", options->dtype, "float32, float16 or bfloat16")->capture_default_str();
  verb->add_option("--tolerance-factor", options->verify.tolerance_factor,
                   "multiplies the tolerances; 1 is the claim, more is for lower precisions and GPUs")
      ->check(number_above(0.0, 1e9))
      ->capture_default_str();
  verb->footer(
      "Exit code 1 if a comparison fails or a golden tensor was not compared.\n"
      "Examples:\n"
      "  moelora verify tests/fixtures/tokenizer\n"
      "  moelora verify tests/fixtures/moelora-tiny --base BASE --json verify.json");
  verb->callback([options, &status] { status = run_verify(*options) ? 0 : 1; });
}

}  // namespace moelora::cli
