// The program with one more family of models: all that it takes is its registration.

#include "cli/program.h"
#include "family.h"
#include "moelora/model/registry.h"

int main(int argc, char** argv) {
  moelora::model::register_family(toy::family());
  return moelora::cli::run_program(argc, argv);
}
