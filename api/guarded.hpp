// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <new>
#include <string>
#include <utility>

#include "ssm/api.h"
#include "ssm/core/error.hpp"

namespace ssm::api {

/// A tensor of the caller's that cannot be taken.
struct TensorError : Error {
  using Error::Error;
};

/// Keeps the sentence for ssm_last_error.
ssm_code failed(ssm_code code, const char* what) noexcept;

/// What a call does, as a code: no exception leaves it.
template <class Body>
ssm_code guarded(Body&& body) noexcept {
  try {
    std::forward<Body>(body)();
    return SSM_OK;
  } catch (const TensorError& error) {
    return failed(SSM_TENSOR, error.what());
  } catch (const ShapeError& error) {
    return failed(SSM_SHAPE, error.what());
  } catch (const ArgumentError& error) {
    return failed(SSM_ARGUMENT, error.what());
  } catch (const CheckpointError& error) {
    return failed(SSM_FILE, error.what());
  } catch (const OutOfMemory& error) {
    return failed(SSM_MEMORY, error.what());
  } catch (const BackendError& error) {
    return failed(SSM_BACKEND, error.what());
  } catch (const std::bad_alloc&) {
    return failed(SSM_MEMORY, "out of memory");
  } catch (const std::exception& error) {
    return failed(SSM_OTHER, error.what());
  } catch (...) {
    return failed(SSM_OTHER, "an error of unknown kind");
  }
}

/// What a pointer of the caller's points to.
/// Throws  ArgumentError  by name where it is null
template <class T>
T& required(T* pointer, const char* name) {
  if (pointer == nullptr) throw ArgumentError(message({name, " is missing"}));
  return *pointer;
}

}  // namespace ssm::api
