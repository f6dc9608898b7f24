// moelora: train, evaluate, generate, merge, export, import, inspect, verify, experiment.

#include "cli/program.h"

#include <c10/util/Exception.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
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
  CLI::App app("MOELoRA fine-tuning: one adapter for many tasks.", "moelora");
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

// A reader that has gone or a disk that is full is an error to report, not a signal to die of. Standard streams that
// were closed become unwritable ones, so that no file that is opened later takes their place.
void prepare_output() {
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
  while (true) {
    const int descriptor = ::open("/dev/null", O_RDONLY);
    if (descriptor > STDERR_FILENO) {
      ::close(descriptor);
    }
    if (descriptor < 0 || descriptor > STDERR_FILENO) {
      return;
    }
  }
}

// Results that were printed but did not arrive are no success.
int end_output(const std::string& verb, int status) {
  errno = 0;
  std::cout.flush();
  const bool flushed = std::fflush(stdout) == 0;
  const int cause = errno;
  if (flushed && std::cout.good() && std::ferror(stdout) == 0) {
    return status;
  }
  const int failure = fail(verb, std::string("cannot write the results to standard output") +
                                     (cause != 0 ? std::string(": ") + std::strerror(cause)
                                                 : std::string(": the disk is full, or nobody reads it")));
  return status == 0 ? failure : status;
}

}  // namespace

int run_program(int argc, char** argv) {
  prepare_output();
  const int status = run(argc, argv);
  return end_output(argc > 1 && argv[1][0] != '-' ? argv[1] : "", status);
}

}  // namespace moelora::cli
