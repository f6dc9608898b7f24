#include "model/decode_graph.h"

#ifdef MOELORA_CUDA
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <cstdlib>
#include <map>
#include <string_view>
#endif

namespace moelora::model {

bool DecodeGraph::run(const std::function<void()>& step, std::int64_t form) {
  if (recorder_ == nullptr) {
    step();
    return false;
  }
  if (state_ == State::none || form != form_) {
    form_ = form;
    state_ = State::seen;
    step();
    return false;
  }
  const bool recorded = state_ == State::recorded;
  if (!recorded) {
    recorder_->record(step);
    state_ = State::recorded;
  }
  recorder_->replay();
  return recorded;
}

#ifdef MOELORA_CUDA

namespace {

class CudaRecorder : public StepRecorder {
 public:
  explicit CudaRecorder(const c10::Device& device) : device_(device) {}

  void record(const std::function<void()>& step) override {
    const c10::cuda::CUDAGuard on_device(device_);
    graph_ = std::make_unique<at::cuda::CUDAGraph>();  // the one before, and its memory, go
    c10::cuda::getCurrentCUDAStream().synchronize();   // nothing that the step reads is under way
    const c10::cuda::CUDAStreamGuard on_stream(recording_stream());
    // Other threads may allocate meanwhile.
    graph_->capture_begin({0, 0}, cudaStreamCaptureModeThreadLocal);
    step();
    graph_->capture_end();
  }

  void replay() override {
    const c10::cuda::CUDAGuard on_device(device_);
    graph_->replay();
  }

 private:
  // The default stream cannot be recorded. One for each thread: cuBLAS keeps a workspace for every stream.
  c10::cuda::CUDAStream recording_stream() const {
    thread_local std::map<c10::DeviceIndex, c10::cuda::CUDAStream> streams;
    const auto found = streams.find(device_.index());
    return found != streams.end()
               ? found->second
               : streams.emplace(device_.index(), c10::cuda::getStreamFromPool(false, device_.index())).first->second;
  }

  c10::Device device_;
  std::unique_ptr<at::cuda::CUDAGraph> graph_;
};

bool is_switched_off() {
  const char* wanted = std::getenv("MOELORA_DECODE_GRAPHS");
  return wanted != nullptr && std::string_view(wanted) == "0";
}

}  // namespace

std::unique_ptr<StepRecorder> make_step_recorder(const c10::Device& device) {
  return device.is_cuda() && !is_switched_off() ? std::make_unique<CudaRecorder>(device) : nullptr;
}

#else

std::unique_ptr<StepRecorder> make_step_recorder(const c10::Device&) { return nullptr; }

#endif

}  // namespace moelora::model
