#include "support/pretend_device/pretend_device.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/GeneratorForPrivateuseone.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <execinfo.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "support/pretend_device/counting.h"
#include "support/pretend_device/fallback.h"
#include "support/pretend_device/launcher.h"
#include "support/pretend_device/memory.h"

namespace moelora::testing::pretend {
namespace {

c10::Device the_device() { return {c10::kPrivateUse1, 0}; }

/// Everything runs at once, so that all streams are the same and every event has happened.
struct Guard final : c10::impl::DeviceGuardImplInterface {
  using Device = c10::Device;
  using Stream = c10::Stream;
  static Stream the_stream() { return Stream(Stream::DEFAULT, the_device()); }
  c10::DeviceType type() const override { return c10::kPrivateUse1; }
  Device exchangeDevice(Device) const override { return the_device(); }
  Device getDevice() const override { return the_device(); }
  void setDevice(Device) const override {}
  void uncheckedSetDevice(Device) const noexcept override {}
  Stream getStream(Device) const override { return the_stream(); }
  Stream getDefaultStream(Device) const override { return the_stream(); }
  Stream getStreamFromGlobalPool(Device, bool) const override { return the_stream(); }
  Stream getNewStream(Device, int) const override { return the_stream(); }
  Stream exchangeStream(Stream) const override { return the_stream(); }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const Stream&) const override { return true; }
  void synchronizeStream(const Stream&) const override { count_wait("synchronize a stream"); }
  void synchronizeEvent(void*) const override { count_wait("synchronize an event"); }
  void synchronizeDevice(const c10::DeviceIndex) const override { count_wait("synchronize"); }
};

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  at::Device getDeviceFromPtr(void* place) const override {
    return is_device_memory(place) ? the_device() : at::Device(at::kCPU);
  }
  bool isPinnedPtr(const void* place) const override { return is_pinned_memory(place); }
  at::Allocator* getPinnedMemoryAllocator() const override { return &pinned_allocator(); }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {  // for at::manual_seed
    static const at::Generator one = at::make_generator<at::CPUGeneratorImpl>();
    return one;
  }
  void resizePrivateUse1Bytes(const c10::Storage& storage, std::size_t bytes) const override {
    const Unlocked unlocked;
    c10::DataPtr data = device_allocator().allocate(bytes);
    if (storage.data() != nullptr) {
      std::memcpy(data.get(), storage.data(), std::min(bytes, storage.nbytes()));
    }
    storage.set_data_ptr_noswap(std::move(data));
    storage.unsafeGetStorageImpl()->set_nbytes(bytes);
  }
};

void on_fault(int, siginfo_t* info, void*) {
  const char* text = is_device_memory(info->si_addr)
                         ? "pretend device: device memory was touched outside of an operator, by\n"
                         : "segmentation fault, by\n";
  if (::write(2, text, std::strlen(text)) >= 0) {
    void* frames[48];
    backtrace_symbols_fd(frames, backtrace(frames, 48), 2);
  }
  _exit(70);
}

}  // namespace

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

c10::Device install() {
  static const bool once = [] {
    c10::register_privateuse1_backend("pretend");
    c10::SetAllocator(c10::kPrivateUse1, &device_allocator());
    at::RegisterPrivateUse1HooksInterface(new Hooks);
    run_lists_at_once();
    install_launcher();
    void* warm[2];
    backtrace(warm, 2);  // loads what backtrace needs, which a signal handler must not
    struct sigaction action {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGSEGV, &action, nullptr);
    return true;
  }();
  (void)once;
  return the_device();
}

}  // namespace moelora::testing::pretend
