#include "cli/program.h"

int main(int argc, char** argv) { return moelora::cli::run_program(argc, argv); }
