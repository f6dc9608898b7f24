#pragma once
// One more task for a trained adapter: its embedding is the only thing that is new, everything else stays.
//
// The new row of E [K+1, d_T] starts at the mean of the tasks' rows. Logits are linear in the row, so ω there is the
// normalised geometric mean of the tasks' ω: no task is favoured, and the row lies where the gate was trained, which a
// row drawn at random would not.

#include <string>

#include "moelora/adapter/adapter.h"

namespace moelora {

/// An adapter on `base` with the tasks of `adapter` and `task` as the last one; tensors are copied, so `adapter` stays
/// as it is. per_linear: one new row in each gate. It is attached as `name` and enabled. `adapter` may stay attached
/// under another name (it is no longer the active one then); eject it to use its name again.
/// Error: an adapter without task gate (another routing, or one expert), a task that it has, a name that is taken, a
/// merged base, a base of other shapes.
Adapter with_new_task(torch::nn::Module& base, const AdapterImpl& adapter, const std::string& task,
                      const std::string& name = "default");

}  // namespace moelora
