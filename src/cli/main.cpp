// moelora: train, evaluate, generate, merge, export, import, inspect, verify, experiment.

#include <c10/util/Exception.h>

#include <algorithm>
#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/error_text.h"
#include "cli/verbs.h"
#include "moelora/io/error.h"
#include "moelora/io/json_reader.h"
#include "moelora/io/provenance.h"
#include "moelora/train/process_group.h"

namespace moelora::cli {
namespace {

constexpr int kBadInput = 2;

// One line, whatever an error's text looks like inside.
int fail(const std::string& verb, std::string text) {
  while (!text.empty() && text.back() == '\n') {
    text.pop_back();
  }
  std::cout.flush();
  std::cerr << "moelora" << (verb.empty() ? "" : " ") << verb << ": error: " << text << std::endl;
  return kBadInput;
}

std::string verb_of(const CLI::App& app) {
  const auto verbs = app.get_subcommands();
  return verbs.empty() ? "" : verbs.front()->get_name();
}

int run(int argc, char** argv) {
  int status = 0;
  CLI::App app("MOELoRA fine-tuning of ChatGLM-6B-shaped models: one adapter for many tasks.", "moelora");
  const nlohmann::ordered_json about = io::provenance();
  app.set_version_flag("--version", "moelora " + about.at("version").get<std::string>() + " (LibTorch " +
                                        about.at("libtorch").get<std::string>() + ", process groups: " +
                                        (train::ProcessGroup::available() ? "gloo" : "none") + ")");
  app.require_subcommand(1);
  app.footer(
      "moelora VERB --help shows a verb's options and examples. Exit codes: 0 done, 1 a check failed (or another "
      "process was lost), 2 bad input.");
  for (const auto add : {add_train, add_eval, add_generate, add_merge, add_export, add_import, add_inspect, add_verify,
                         add_experiment}) {
    add(app, status);
  }
  try {
    app.parse(argc, argv);
    return status;
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) {
      return app.exit(error);  // --help, --version
    }
    if (argc > 1 && argv[1][0] != '-' && verb_of(app).empty()) {
      std::vector<std::string> verbs;
      for (const CLI::App* verb : app.get_subcommands([](const CLI::App*) { return true; })) {
        verbs.push_back(verb->get_name());
      }
      return fail("", "there is no verb '" + std::string(argv[1]) + "'" + io::suggestion(argv[1], verbs));
    }
    return fail(verb_of(app), command_line_text(error.what()) + " (see --help)");
  } catch (const Error& error) {
    return fail(verb_of(app), error.what());
  } catch (const c10::Error& error) {
    return fail(verb_of(app), error.what_without_backtrace());
  } catch (const std::bad_alloc&) {
    return fail(verb_of(app), "out of memory");
  } catch (const std::exception& error) {
    return fail(verb_of(app), error_text(error));
  }
}

}  // namespace
}  // namespace moelora::cli

int main(int argc, char** argv) { return moelora::cli::run(argc, argv); }
