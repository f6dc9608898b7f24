#include "nn/kernels/cuda/nvrtc.h"

#include <dlfcn.h>

#include <functional>

#include "moelora/io/error.h"
#include "nn/kernels/cuda/device_sources.h"
#include "nn/kernels/cuda/shared_library.h"

namespace moelora::nn::cuda {
namespace {

struct ProgramOfNvrtc;  // _nvrtcProgram
using Program = ProgramOfNvrtc*;
using NvrtcResult = int;  // nvrtcResult; 0: success

struct NvrtcFunctions {
  NvrtcResult (*version)(int* major, int* minor);
  NvrtcResult (*count_architectures)(int* count);
  NvrtcResult (*architectures)(int* numbers);
  NvrtcResult (*create)(Program* program, const char* source, const char* name, int headers,
                        const char* const* header_texts, const char* const* header_names);
  NvrtcResult (*destroy)(Program* program);
  NvrtcResult (*add_expression)(Program program, const char* expression);
  NvrtcResult (*compile)(Program program, int options, const char* const* texts);
  NvrtcResult (*symbol)(Program program, const char* expression, const char** symbol);
  NvrtcResult (*log_size)(Program program, std::size_t* size);
  NvrtcResult (*log)(Program program, char* text);
  NvrtcResult (*cubin_size)(Program program, std::size_t* size);
  NvrtcResult (*cubin)(Program program, char* image);
  NvrtcResult (*ptx_size)(Program program, std::size_t* size);
  NvrtcResult (*ptx)(Program program, char* image);
};

bool find_all(void* library, NvrtcFunctions& of) {
  return find_function(library, "nvrtcVersion", of.version) &&
         find_function(library, "nvrtcGetNumSupportedArchs", of.count_architectures) &&
         find_function(library, "nvrtcGetSupportedArchs", of.architectures) &&
         find_function(library, "nvrtcCreateProgram", of.create) &&
         find_function(library, "nvrtcDestroyProgram", of.destroy) &&
         find_function(library, "nvrtcAddNameExpression", of.add_expression) &&
         find_function(library, "nvrtcCompileProgram", of.compile) &&
         find_function(library, "nvrtcGetLoweredName", of.symbol) &&
         find_function(library, "nvrtcGetProgramLogSize", of.log_size) &&
         find_function(library, "nvrtcGetProgramLog", of.log) &&
         find_function(library, "nvrtcGetCUBINSize", of.cubin_size) &&
         find_function(library, "nvrtcGetCUBIN", of.cubin) && find_function(library, "nvrtcGetPTXSize", of.ptx_size) &&
         find_function(library, "nvrtcGetPTX", of.ptx);
}

using SizeOf = NvrtcResult (*)(Program, std::size_t*);
using BytesOf = NvrtcResult (*)(Program, char*);
std::string bytes_of(Program program, SizeOf size_of, BytesOf read) {
  std::size_t size = 0;
  if (size_of(program, &size) != 0 || size == 0) {
    return "";
  }
  std::string bytes(size, '\0');
  return read(program, bytes.data()) == 0 ? bytes : "";
}

class LoadedNvrtc : public Nvrtc {
 public:
  explicit LoadedNvrtc(const NvrtcFunctions& functions) : functions_(functions) {
    int major = 0;
    int minor = 0;
    int count = 0;
    functions_.version(&major, &minor);
    version_ = detail::concat(major, ".", minor);
    if (functions_.count_architectures(&count) == 0 && count > 0) {
      architectures_.resize(static_cast<std::size_t>(count));
      functions_.architectures(architectures_.data());
    }
  }

  std::string version() const override { return version_; }
  const std::vector<int>& architectures() const override { return architectures_; }

  CompiledKernel compile(const kernels::KernelInfo& kernel, const Target& target, bool verbose) const override {
    const std::string source = detail::concat("#include \"", kernel.file, "\"\n");
    std::vector<const char*> names;
    std::vector<const char*> texts;
    for (const auto& [name, text] : kernels::device_sources()) {
      names.push_back(name.c_str());
      texts.push_back(text.c_str());
    }
    Program program = nullptr;
    const std::string expression = kernel.expression();
    check(functions_.create(&program, source.c_str(), "moelora.cu", static_cast<int>(names.size()), texts.data(),
                            names.data()),
          kernel, target, "");
    const std::unique_ptr<Program, std::function<void(Program*)>> end(&program, functions_.destroy);
    check(functions_.add_expression(program, expression.c_str()), kernel, target, "");
    const std::string architecture = "--gpu-architecture=" + target.name();
    std::vector<const char*> options{architecture.c_str(), "--std=c++20"};
    if (verbose) {
      options.push_back("--ptxas-options=-v");
    }
    const NvrtcResult compiled = functions_.compile(program, static_cast<int>(options.size()), options.data());
    CompiledKernel made;
    made.log = bytes_of(program, functions_.log_size, functions_.log);
    made.log = made.log.substr(0, made.log.find('\0'));
    check(compiled, kernel, target, made.log);
    const char* symbol = nullptr;
    check(functions_.symbol(program, expression.c_str(), &symbol), kernel, target, "");
    made.symbol = symbol;
    made.image = target.machine_code ? bytes_of(program, functions_.cubin_size, functions_.cubin)
                                     : bytes_of(program, functions_.ptx_size, functions_.ptx);
    check(made.image.empty() ? 1 : 0, kernel, target, "the compiler gave no code");
    return made;
  }

 private:
  void check(NvrtcResult result, const kernels::KernelInfo& kernel, const Target& target,
             const std::string& log) const {
    MOELORA_CHECK(result == 0, "NVRTC ", version_, " could not compile the kernel ", kernel.name, " (", kernel.file,
                  ") for ", target.name(), ", error ", result, ":\n", log);
  }

  NvrtcFunctions functions_;
  std::string version_;
  std::vector<int> architectures_;
};

}  // namespace

std::unique_ptr<Nvrtc> Nvrtc::open(const std::string& library) {
  NvrtcFunctions functions{};
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);  // stays open
  return handle != nullptr && find_all(handle, functions) ? std::make_unique<LoadedNvrtc>(functions) : nullptr;
}

Target target_for(int capability, const std::vector<int>& architectures) {
  Target target;
  for (const int architecture : architectures) {
    if (architecture <= capability && architecture > target.architecture) {
      target.architecture = architecture;
    }
  }
  target.machine_code = target.architecture / 10 == capability / 10;
  return target;
}

}  // namespace moelora::nn::cuda
