#include "train/gloo.h"

#include "moelora/io/error.h"

#ifdef USE_C10D_GLOO

#include <unistd.h>

#include <cstdlib>
#include <iostream>
#include <thread>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#ifdef USE_C10D_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif

namespace moelora::train {
namespace {

using std::chrono::milliseconds;

// What a rank does between two exchanges may take long; that it lives is the watch's business.
constexpr milliseconds kLongestExchange = std::chrono::hours(2);

std::string first_line(const std::exception& error) {
  const auto* known = dynamic_cast<const c10::Error*>(&error);
  const std::string text = known != nullptr ? known->what_without_backtrace() : error.what();
  return text.substr(0, text.find('\n'));
}

class TcpRankStore : public RankStore {
 public:
  explicit TcpRankStore(c10::intrusive_ptr<c10d::Store> store) : store_(std::move(store)) {}

  void set(const std::string& key, const std::string& value) override { store_->set(key, value); }

  std::vector<std::string> get(const std::vector<std::string>& keys) override {
    std::vector<std::string> values;
    for (const std::vector<std::uint8_t>& value : store_->multiGet(keys)) {
      values.emplace_back(value.begin(), value.end());
    }
    return values;
  }

  std::string set_if_empty(const std::string& key, const std::string& value) override {
    return store_->compareSet(key, std::string(), value);
  }

 private:
  c10::intrusive_ptr<c10d::Store> store_;
};

class GlooLink : public Gloo {
 public:
  GlooLink(const RankPlace& place, milliseconds time) : place_(place) {
    const auto begin = std::chrono::steady_clock::now();
    store_ = open_store(place.rank == 0 && !place.launcher_store, time);
    if (place.rank == 0) {
      store_->set(RankWatch::kFailureKey, std::string());
    }
    store_->set(RankWatch::beat_key(place.rank), RankWatch::kFirstBeat);
    std::string missing;
    do {
      missing = missing_ranks();
      if (missing.empty()) {
        return;
      }
      std::this_thread::sleep_for(milliseconds(20));
    } while (std::chrono::steady_clock::now() - begin < time);
    throw RankLost(detail::concat(missing, " of ", place.size, " did not start within ", time.count() / 1000,
                                  " s: all ranks need the same MASTER_ADDR, MASTER_PORT and WORLD_SIZE"));
  }

#ifdef USE_C10D_NCCL
  ~GlooLink() override {
    if (nccl_) {
      nccl_->shutdown();
    }
  }

  bool sums_on(const at::Device& device) const override { return device.is_cuda(); }

  // What NCCL does when a rank is lost is wait: the watch ends the program then (RankWatchOptions::on_lost).
  void sum_on_device(const at::Tensor& values) override {
    if (!nccl_) {
      const auto options = c10d::ProcessGroupNCCL::Options::create();
      options->timeout = kLongestExchange;
      nccl_ = c10::make_intrusive<c10d::ProcessGroupNCCL>(c10::make_intrusive<c10d::PrefixStore>("nccl", store_),
                                                          place_.rank, place_.size, options);
    }
    std::vector<at::Tensor> tensors{values};
    nccl_->allreduce(tensors)->wait();  // of the stream
  }
#else
  bool sums_on(const at::Device&) const override { return false; }
  void sum_on_device(const at::Tensor&) override { TORCH_INTERNAL_ASSERT(false, "this build has no NCCL"); }
#endif

  std::shared_ptr<RankStore> rank_store() override {
    return std::make_shared<TcpRankStore>(open_store(false, milliseconds(5000)));
  }

  void connect(milliseconds time) override {
    const auto options = c10d::ProcessGroupGloo::Options::create(time);
    options->devices.push_back(device());
    options->threads = 1;
    // Gloo reports its connections on standard output, which belongs to the program's own results.
    std::streambuf* const own = std::cout.rdbuf(std::cerr.rdbuf());
    try {
      backend_ = c10::make_intrusive<c10d::ProcessGroupGloo>(c10::make_intrusive<c10d::PrefixStore>("gloo", store_),
                                                             place_.rank, place_.size, options);
    } catch (const std::exception& error) {
      std::cout.rdbuf(own);
      throw Error(first_line(error));
    }
    std::cout.rdbuf(own);
  }

  void begin_sum(const at::Tensor& values) override {
    std::vector<at::Tensor> tensors{values};
    c10d::AllreduceOptions options;
    options.timeout = kLongestExchange;
    work_ = backend_->allreduce(tensors, options);
  }

  bool wait(milliseconds time, std::string& failure) override {
    try {
      work_->wait(time);
      return true;
    } catch (const std::exception& error) {
      if (!work_->isCompleted()) {
        return false;  // not yet
      }
      if (work_->isSuccess()) {
        return true;  // just now
      }
      failure = first_line(error);
      return false;
    }
  }

  void abandon() override {
    backend_.release();
    work_.release();
#ifdef USE_C10D_NCCL
    nccl_.release();
#endif
  }

 private:
  c10::intrusive_ptr<c10d::Store> open_store(bool serve, milliseconds time) const {
    c10d::TCPStoreOptions options;
    options.port = static_cast<std::uint16_t>(place_.port);
    options.isServer = serve;
    options.waitWorkers = false;
    options.timeout = time;
    try {
      return c10::make_intrusive<c10d::PrefixStore>("moelora" + place_.attempt,
                                                    c10::make_intrusive<c10d::TCPStore>(place_.address, options));
    } catch (const std::exception& error) {
      const std::string where = detail::concat(place_.address, ":", place_.port, " (MASTER_ADDR, MASTER_PORT)");
      MOELORA_CHECK(!serve, "rank 0 cannot listen on ", where, ", is the port taken? ", first_line(error));
      throw RankLost(detail::concat(place_.launcher_store ? "the launcher's store" : "rank 0", " does not answer at ",
                                    where, ": ", first_line(error)));
    }
  }

  std::string missing_ranks() const {
    std::string missing;
    for (int rank = 0; rank < place_.size; ++rank) {
      if (!store_->check({RankWatch::beat_key(rank)})) {
        missing += detail::concat(missing.empty() ? "rank " : ", ", rank);
      }
    }
    return missing;
  }

  // Ranks that meet at a loopback address are all on this machine.
  std::shared_ptr<gloo::transport::Device> device() const {
    const char* interface = std::getenv("GLOO_SOCKET_IFNAME");
    if (interface != nullptr && *interface != '\0') {
      return c10d::ProcessGroupGloo::createDeviceForInterface(interface);
    }
    if (place_.address == "localhost" || place_.address.starts_with("127.")) {
      return c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1");
    }
    return c10d::ProcessGroupGloo::createDefaultDevice();
  }

  RankPlace place_;
  c10::intrusive_ptr<c10d::Store> store_;
  c10::intrusive_ptr<c10d::ProcessGroupGloo> backend_;
  c10::intrusive_ptr<c10d::Work> work_;
#ifdef USE_C10D_NCCL
  c10::intrusive_ptr<c10d::ProcessGroupNCCL> nccl_;  // made when it is first needed: each rank's GPU is known by then
#endif
};

}  // namespace

bool Gloo::available() { return true; }

std::unique_ptr<Gloo> Gloo::join(const RankPlace& place, milliseconds time) {
  return std::make_unique<GlooLink>(place, time);
}

}  // namespace moelora::train

#else

namespace moelora::train {

bool Gloo::available() { return false; }

std::unique_ptr<Gloo> Gloo::join(const RankPlace&, std::chrono::milliseconds) {
  throw Error("this build has no process groups");
}

}  // namespace moelora::train

#endif
