#pragma once
// The verbs of the program `moelora`. Each adds its subcommand; the callback runs it when the command line names it and
// stores the exit code in `status`: 0 done, 1 a check failed. Bad input throws moelora::Error (exit code 2).

#include <CLI/CLI.hpp>

namespace moelora::cli {

void add_train(CLI::App& app, int& status);
void add_eval(CLI::App& app, int& status);
void add_experiment(CLI::App& app, int& status);
void add_generate(CLI::App& app, int& status);
void add_merge(CLI::App& app, int& status);
void add_export(CLI::App& app, int& status);
void add_import(CLI::App& app, int& status);
void add_inspect(CLI::App& app, int& status);
void add_verify(CLI::App& app, int& status);

}  // namespace moelora::cli
