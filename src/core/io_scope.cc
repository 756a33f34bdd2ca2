#include "core/io_scope.h"

#include <cerrno>
#include <utility>

#include "base/assert.h"

namespace ashlar {

bool IoScope::start(IoOperation& operation) noexcept {
    if (cancelled_) [[unlikely]]
        return false;
    operation.after_ = first_;
    if (first_ != nullptr) first_->before_ = &operation;
    first_ = &operation;
    reactor_.submit(operation.submission_, operation);
    return true;
}

void IoScope::unlink(IoOperation& operation) noexcept {
    IoOperation*& from_before = operation.before_ == nullptr ? first_ : operation.before_->after_;
    from_before = operation.after_;
    if (operation.after_ != nullptr) operation.after_->before_ = operation.before_;
    operation.before_ = nullptr;
    operation.after_ = nullptr;
}

void IoScope::ended(IoOperation& operation) noexcept {
    unlink(operation);
    tell_idle();
}

bool IoScope::start(OffloadedCall& call) noexcept {
    if (cancelled_) return false;
    ++calls_;
    offload_.run(call);
    return true;
}

void IoScope::ended(OffloadedCall&) noexcept {
    --calls_;
    tell_idle();
}

void IoScope::tell_idle() noexcept {
    if (cancelled_ && idle() && on_idle_ != nullptr) on_idle_(context_);
}

void IoScope::cancel_all() noexcept {
    cancelled_ = true;
    for (IoOperation* at = first_; at != nullptr; at = at->after_) reactor_.cancel(*at);
}

void IoScope::thread_ends() noexcept {
    cancelled_ = true;
    while (first_ != nullptr) {
        first_->waiter_ = nullptr;
        first_->state_ = IoOperation::State::idle;
        unlink(*first_);
    }
    offload_.forget(*this);
    calls_ = 0;
}

IoOperation::~IoOperation() { ASHLAR_ASSERT(state_ != State::in_flight); }

void IoOperation::start() noexcept {
    state_ = State::in_flight;
    if (scope_.start(*this)) [[likely]]
        return;
    state_ = State::done;
    result_ = IoResult::from_errno(ECANCELED);
}

bool IoOperation::await_suspend(std::coroutine_handle<> waiter) noexcept {
    if (state_ == State::idle) start();
    if (state_ == State::done) return false;
    waiter_ = waiter;
    return true;
}

void IoOperation::complete(std::int32_t result, std::uint32_t flags) noexcept {
    // The notification after a send_zero_copy carries no result of its own.
    if ((flags & completion::notification) == 0) result_ = IoResult::from_kernel(result);
    if ((flags & completion::more) != 0) return;
    if (submission_.kind == Submission::Kind::sleep) {
        if (result_.error() == ETIME) result_ = IoResult{};
    } else if (result_.error() == ECANCELED && is_bounded() && !scope_.cancelled()) {
        // Nobody else cancels: the bound of within() has passed.
        result_ = IoResult::from_errno(ETIMEDOUT);
    }
    const auto waiter = std::exchange(waiter_, nullptr);
    state_ = State::done;
    scope_.ended(*this);
    if (waiter != nullptr) waiter.resume();
}

bool OffloadedCall::await_suspend(std::coroutine_handle<> waiter) noexcept {
    waiter_ = waiter;
    if (scope_.start(*this)) return true;
    result_ = IoResult::from_errno(ECANCELED);
    return false;
}

void OffloadedCall::woken() noexcept {
    scope_.ended(*this);
    waiter_.resume();
}

RoundEnd::~RoundEnd() {
    if (waiter_ != nullptr) scope_.reactor().forget(*this);
}

void RoundEnd::await_suspend(std::coroutine_handle<> waiter) noexcept {
    waiter_ = waiter;
    scope_.reactor().before_round(*this);
}

void RoundEnd::before_round() noexcept { std::exchange(waiter_, nullptr).resume(); }

void Completion::complete(IoResult result) noexcept {
    result_ = result;
    scope_.reactor().wake(*this);
}

void Completion::woken() noexcept {
    done_ = true;
    if (waiter_ != nullptr) waiter_.resume();
}

}  // namespace ashlar
