#pragma once
// The program `moelora` as a function: with a family of models registered before (model/registry.h), all verbs work on
// that family's folders too.

namespace moelora::cli {

/// Runs the command line, prints its errors and returns the exit code: 0 done, 1 a check failed, 2 bad input.
int run_program(int argc, char** argv);

}  // namespace moelora::cli
