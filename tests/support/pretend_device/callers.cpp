#include "support/pretend_device/callers.h"

#include <cxxabi.h>
#include <elf.h>
#include <execinfo.h>
#include <link.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

namespace moelora::testing::pretend {
namespace {

struct Function {
  std::uintptr_t begin, end;
  std::string name;  // mangled
};

std::uintptr_t program_base() {
  std::uintptr_t base = 0;
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* out) {
        *static_cast<std::uintptr_t*>(out) = info->dlpi_addr;  // the first entry is the program itself
        return 1;
      },
      &base);
  return base;
}

/// The program's own symbol table, which, unlike dladdr(), has local functions.
std::vector<Function> functions_of_program() {
  std::vector<char> file(std::filesystem::file_size("/proc/self/exe"));
  std::ifstream("/proc/self/exe", std::ios::binary).read(file.data(), static_cast<std::streamsize>(file.size()));
  const auto* header = reinterpret_cast<const ElfW(Ehdr)*>(file.data());
  const auto* sections = reinterpret_cast<const ElfW(Shdr)*>(file.data() + header->e_shoff);
  const std::uintptr_t base = program_base();
  std::vector<Function> functions;
  for (int s = 0; s < header->e_shnum; ++s) {
    if (sections[s].sh_type != SHT_SYMTAB) {
      continue;
    }
    const auto* symbols = reinterpret_cast<const ElfW(Sym)*>(file.data() + sections[s].sh_offset);
    const char* names = file.data() + sections[sections[s].sh_link].sh_offset;
    for (std::size_t i = 0; i < sections[s].sh_size / sizeof(ElfW(Sym)); ++i) {
      if (ELF64_ST_TYPE(symbols[i].st_info) == STT_FUNC && symbols[i].st_size > 0) {
        const std::uintptr_t begin = base + symbols[i].st_value;
        functions.push_back({begin, begin + symbols[i].st_size, names + symbols[i].st_name});
      }
    }
  }
  std::sort(functions.begin(), functions.end(), [](const auto& a, const auto& b) { return a.begin < b.begin; });
  return functions;
}

/// Without arguments; empty for what is not the library's, for this device and for tests' own code.
std::string readable(const std::string& mangled) {
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> text(abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, &status),
                                                    std::free);
  std::string name = status == 0 ? text.get() : mangled;
  for (std::size_t at = 0; (at = name.find("(anonymous namespace)::", at)) != std::string::npos;) {
    name.erase(at, std::strlen("(anonymous namespace)::"));
  }
  if (name.find("moelora::") == std::string::npos || name.find("moelora::testing::pretend") != std::string::npos) {
    return "";
  }
  const auto end = name.find('(');
  return name.substr(0, end == 0 ? std::string::npos : end);
}

}  // namespace

std::string callers() {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  static const std::vector<Function> functions = functions_of_program();
  static std::map<std::string, std::string> readables;
  void* frames[96];
  const int count = backtrace(frames, 96);
  std::string text;
  int found = 0;
  for (int i = 0; i < count && found < 3; ++i) {
    const auto place = reinterpret_cast<std::uintptr_t>(frames[i]) - 1;
    auto next = std::upper_bound(functions.begin(), functions.end(), place,
                                 [](std::uintptr_t at, const Function& function) { return at < function.begin; });
    if (next == functions.begin() || place >= (--next)->end) {
      continue;
    }
    auto [known, is_new] = readables.try_emplace(next->name);
    if (is_new) {
      known->second = readable(next->name);
    }
    if (!known->second.empty()) {
      text += (found == 0 ? "" : " < ") + known->second;
      ++found;
    }
  }
  return text.empty() ? "(not the library)" : text;
}

}  // namespace moelora::testing::pretend
