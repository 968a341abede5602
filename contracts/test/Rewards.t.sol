// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {HyperGPULedger} from "../src/HyperGPULedger.sol";
import {Coordinated, Refusing} from "./Coordinated.sol";
import {Trees, vm} from "./Vm.sol";

/// @dev A receiver that calls back into `claim`.
contract Reentrant {
    HyperGPULedger private immutable _ledger;
    bytes private _call;
    uint256 public calls;

    constructor(HyperGPULedger ledger) {
        _ledger = ledger;
    }

    function arm(bytes calldata call_) external {
        _call = call_;
    }

    receive() external payable {
        ++calls;
        (bool ok,) = address(_ledger).call(_call);
        require(!ok, "paid twice");
    }
}

contract RewardsTest is Coordinated {
    using Trees for bytes32;

    /// @dev What each round granted; that of round r is at r - 1.
    address[][] private _accounts;
    uint96[][] private _amounts;

    /// @dev Commits a round that grants these amounts to Alice and Bob.
    function _grant(uint96 alice, uint96 bob) private {
        address[] memory accounts = new address[](2);
        uint96[] memory amounts = new uint96[](2);
        (accounts[0], accounts[1], amounts[0], amounts[1]) = (ALICE, BOB, alice, bob);
        _grant(accounts, amounts, alice + bob);
    }

    function _grant(address[] memory accounts, uint96[] memory amounts, uint96 granted) private {
        (bytes32 root,) = Trees.rewardTree(_id, accounts, amounts, 0);
        _accounts.push(accounts);
        _amounts.push(amounts);
        _commit(root, uint128(_ledger.session(_id).owed) + granted);
    }

    /// @dev Commits rounds that grant nothing.
    function _idle(uint256 rounds) private {
        for (uint256 i = 0; i < rounds; ++i) {
            _grant(new address[](0), new uint96[](0), 0);
        }
    }

    function _of(address account, uint64 round) private view returns (HyperGPULedger.Grant memory) {
        return Trees.grant(_id, round, account, _accounts[round - 1], _amounts[round - 1]);
    }

    function _refused(address account, HyperGPULedger.Grant memory grant, uint256 last, bytes memory reason) private {
        (bytes32 before, HyperGPULedger.Commitment[] memory rounds) = _rounds(grant.round > 1 ? grant.round - 1 : 1, last);
        vm.expectRevert(reason);
        _ledger.claim(_id, account, before, rounds, one(grant));
    }

    // paying

    function test_anyone_may_send_a_claim_and_the_account_is_paid_once() public {
        _grant(3 ether, 2 ether);
        vm.prank(MALLORY);
        require(_claim(ALICE, _of(ALICE, 1), 1) == 3 ether && ALICE.balance == 3 ether);
        _refused(
            ALICE, _of(ALICE, 1), 1, abi.encodeWithSelector(HyperGPULedger.LedgerNothingToClaim.selector, ALICE)
        );
        _claim(BOB, _of(BOB, 1), 1);
        require(_ledger.session(_id).paid == 5 ether && address(_ledger).balance == 5 ether);
    }

    function test_one_claim_pays_many_rounds_and_each_of_them_once() public {
        _grant(3, 2);
        _grant(0, 5);
        _grant(4, 1);
        HyperGPULedger.Grant[] memory grants = new HyperGPULedger.Grant[](4);
        (grants[0], grants[1], grants[2], grants[3]) = (_of(ALICE, 1), _of(ALICE, 3), _of(ALICE, 1), _of(ALICE, 2));
        require(_claim(ALICE, grants, 1, 3) == 7 && ALICE.balance == 7);
        require(_ledger.paidRounds(_id, ALICE, 0) == 14 && _ledger.paidRounds(_id, BOB, 0) == 0);
    }

    function test_a_stranger_who_claims_one_round_first_does_not_undo_a_claim_of_many() public {
        _grant(3, 2);
        _grant(4, 1);
        vm.prank(MALLORY);
        _claim(ALICE, _of(ALICE, 2), 2);
        HyperGPULedger.Grant[] memory grants = new HyperGPULedger.Grant[](2);
        (grants[0], grants[1]) = (_of(ALICE, 1), _of(ALICE, 2));
        require(_claim(ALICE, grants, 1, 2) == 3 && ALICE.balance == 7);
    }

    /// @dev Every third account has its predecessor's 20 lowest bits or more.
    function testFuzz_a_round_pays_every_account_its_amount_and_nothing_is_left(uint64 seed) public {
        _idle(seed % 20);
        address[] memory accounts = new address[](1 + seed % 12);
        uint96[] memory amounts = new uint96[](accounts.length);
        uint96 total;
        for (uint256 i = 0; i < accounts.length; ++i) {
            uint256 dice = uint256(keccak256(abi.encode(seed, i)));
            accounts[i] = address(uint160(dice));
            if (i % 3 == 2) accounts[i] = address(uint160(accounts[i - 1]) ^ (uint160(1) << (20 + (dice % 20))));
            amounts[i] = 1 + uint96(dice >> 160) % 1 gwei;
            total += amounts[i];
        }
        _grant(accounts, amounts, total);
        uint64 round = uint64(_history.length);
        for (uint256 i = 0; i < accounts.length; ++i) {
            require(_claim(accounts[i], _of(accounts[i], round), round) == amounts[i]);
            require(accounts[i].balance == amounts[i]);
        }
        require(_ledger.session(_id).paid == total && _ledger.session(_id).owed == total);
    }

    function test_a_receiver_that_calls_back_is_paid_once() public {
        Reentrant receiver = new Reentrant(_ledger);
        address[] memory accounts = new address[](2);
        uint96[] memory amounts = new uint96[](2);
        (accounts[0], accounts[1], amounts[0], amounts[1]) = (address(receiver), BOB, 1 ether, 1 ether);
        _grant(accounts, amounts, 2 ether);
        (bytes32 before, HyperGPULedger.Commitment[] memory rounds) = _rounds(1, 1);
        HyperGPULedger.Grant[] memory grants = one(_of(address(receiver), 1));
        receiver.arm(abi.encodeCall(_ledger.claim, (_id, address(receiver), before, rounds, grants)));
        _claim(address(receiver), _of(address(receiver), 1), 1);
        require(address(receiver).balance == 1 ether && receiver.calls() == 1);
    }

    function test_a_receiver_that_refuses_loses_nothing() public {
        address receiver = address(new Refusing());
        address[] memory accounts = new address[](1);
        uint96[] memory amounts = new uint96[](1);
        (accounts[0], amounts[0]) = (receiver, 1 ether);
        _grant(accounts, amounts, 1 ether);
        _refused(
            receiver,
            _of(receiver, 1),
            1,
            abi.encodeWithSelector(HyperGPULedger.LedgerTransferFailed.selector, receiver, 1 ether)
        );
        require(_ledger.paidRounds(_id, receiver, 0) == 0 && _ledger.session(_id).paid == 0);
    }

    // what was never granted is not paid

    function testFuzz_a_grant_with_any_part_changed_is_refused(uint8 part, uint96 by, address other) public {
        vm.assume(by != 0);
        _grant(1 ether, 1 ether);
        _grant(1 ether, 2 ether);
        HyperGPULedger.Grant memory grant = _of(ALICE, 2);
        address account = ALICE;
        unchecked {
            if (part % 5 == 0) account = address(uint160(account) + by);
            else if (part % 5 == 1) grant.amount += by;
            else if (part % 5 == 2) grant.proof[0].sum += by;
            else if (part % 5 == 3) grant.proof[0].hash = keccak256(abi.encode(by));
            else (grant.round, account) = (1, other == ALICE ? BOB : other);
        }
        (bytes32 before, HyperGPULedger.Commitment[] memory rounds) = _rounds(1, 2);
        vm.expectRevert(
            abi.encodeWithSelector(HyperGPULedger.LedgerInvalidProof.selector, account, grant.round, grant.amount)
        );
        _ledger.claim(_id, account, before, rounds, one(grant));
    }

    function testFuzz_a_history_with_any_part_changed_is_refused(uint8 part, uint64 by) public {
        vm.assume(by != 0);
        _grant(1 ether, 1 ether);
        _grant(1 ether, 2 ether);
        _idle(1);
        (bytes32 before, HyperGPULedger.Commitment[] memory rounds) = _rounds(1, 3);
        unchecked {
            if (part % 7 == 0) before = bytes32(uint256(before) + by);
            else if (part % 7 == 1) rounds[0].owed -= by;
            else if (part % 7 == 2) rounds[1].owed += by;
            else if (part % 7 == 3) rounds[1].rewards = bytes32(uint256(by));
            else if (part % 7 == 4) rounds[2].round += by;
            else if (part % 7 == 5) rounds[1].root = bytes32(uint256(by) << 64);
            else rounds[2] = rounds[1];
        }
        vm.expectRevert(abi.encodeWithSelector(HyperGPULedger.LedgerUnknownHistory.selector, _id));
        _ledger.claim(_id, ALICE, before, rounds, one(_of(ALICE, 2)));
    }

    function test_a_claim_without_history_or_grants_pays_nothing() public {
        _grant(1 ether, 1 ether);
        (bytes32 before, HyperGPULedger.Commitment[] memory rounds) = _rounds(1, 1);
        vm.expectRevert(abi.encodeWithSelector(HyperGPULedger.LedgerNothingToClaim.selector, ALICE));
        _ledger.claim(_id, ALICE, before, rounds, new HyperGPULedger.Grant[](0));
        vm.expectRevert(abi.encodeWithSelector(HyperGPULedger.LedgerUnknownHistory.selector, _id));
        _ledger.claim(_id, ALICE, _id, new HyperGPULedger.Commitment[](0), one(_of(ALICE, 1)));
    }

    function test_a_grant_needs_the_round_before_it_which_tells_what_the_round_added() public {
        _grant(1, 1);
        _grant(2, 2);
        _grant(3, 3);
        HyperGPULedger.Grant memory grant = _of(ALICE, 2);
        bytes memory reason = abi.encodeWithSelector(HyperGPULedger.LedgerRoundNotShown.selector, 2);
        (bytes32 before, HyperGPULedger.Commitment[] memory rounds) = _rounds(2, 3);
        vm.expectRevert(reason);
        _ledger.claim(_id, ALICE, before, rounds, one(grant));
        (before, rounds) = _rounds(3, 3);
        vm.expectRevert(reason);
        _ledger.claim(_id, ALICE, before, rounds, one(grant));
        (before, rounds) = _rounds(1, 1);
        vm.expectRevert(reason);
        _ledger.claim(_id, ALICE, before, rounds, one(grant));
        require(_claim(ALICE, grant, 2) == 2);
    }

    function test_a_leaf_in_another_accounts_place_is_refused() public {
        // Alice's low bit is 1, so her leaf belongs on the right.
        bytes32 leaf = _id.rewardLeaf(ALICE, 5);
        _commit(Trees.join(leaf, 5, leaf, 5), 10);
        HyperGPULedger.Grant memory grant = HyperGPULedger.Grant(1, 5, new HyperGPULedger.Sibling[](1));
        grant.proof[0] = HyperGPULedger.Sibling(leaf, 5);
        require(_claim(ALICE, grant, 1) == 5);
        _refused(ALICE, grant, 1, abi.encodeWithSelector(HyperGPULedger.LedgerNothingToClaim.selector, ALICE));
        _commit(Trees.join(leaf, 5, bytes32("other"), 5), 20);
        (grant.round, grant.proof[0].hash) = (2, bytes32("other"));
        _refused(ALICE, grant, 2, abi.encodeWithSelector(HyperGPULedger.LedgerInvalidProof.selector, ALICE, 2, 5));
    }

    // what was granted stays granted, whatever its coordinator does

    function test_a_later_root_of_zero_takes_nothing_back() public {
        _grant(3 ether, 2 ether);
        _commit(0, 5 ether);
        require(_claim(ALICE, _of(ALICE, 1), 2) == 3 ether);
        require(_claim(BOB, _of(BOB, 1), 1) == 2 ether);
    }

    function test_a_later_root_that_names_the_coordinator_takes_nothing_back() public {
        _grant(3 ether, 2 ether);
        _commit(_id.rewardLeaf(COORDINATOR, 5 ether), 5 ether);
        HyperGPULedger.Grant memory loot = HyperGPULedger.Grant(2, 5 ether, new HyperGPULedger.Sibling[](0));
        bytes memory reason =
            abi.encodeWithSelector(HyperGPULedger.LedgerPromisesTooMuch.selector, 2, 5 ether, 0);
        _refused(COORDINATOR, loot, 2, reason);
        _commit(_id.rewardLeaf(COORDINATOR, 5 ether), 6 ether);
        loot.round = 3;
        reason = abi.encodeWithSelector(HyperGPULedger.LedgerPromisesTooMuch.selector, 3, 5 ether, 1 ether);
        _refused(COORDINATOR, loot, 3, reason);
        require(_claim(ALICE, _of(ALICE, 1), 3) == 3 ether && _claim(BOB, _of(BOB, 1), 3) == 2 ether);
    }

    function testFuzz_a_tree_that_promises_more_than_its_round_adds_grants_nothing(uint64 missing) public {
        missing = 1 + missing % 5 ether;
        address[] memory accounts = new address[](2);
        uint96[] memory amounts = new uint96[](2);
        (accounts[0], accounts[1], amounts[0], amounts[1]) = (ALICE, COORDINATOR, 1 ether, 4 ether);
        _grant(accounts, amounts, 5 ether - missing);
        bytes memory reason = abi.encodeWithSelector(
            HyperGPULedger.LedgerPromisesTooMuch.selector, 1, 5 ether, 5 ether - uint256(missing)
        );
        _refused(ALICE, _of(ALICE, 1), 1, reason);
        _refused(COORDINATOR, _of(COORDINATOR, 1), 1, reason);
    }

    function testFuzz_no_number_of_later_commits_undoes_a_claim_or_lengthens_its_proof(uint8 round, uint8 later) public {
        round = 1 + round % 30;
        _idle(round - 1);
        _grant(1 ether, 1 ether);
        (bytes32 before, HyperGPULedger.Commitment[] memory rounds) = _rounds(round > 1 ? round - 1 : 1, round);
        HyperGPULedger.Grant[] memory grants = one(_of(ALICE, round));
        _idle(later % 40);
        require(_ledger.claim(_id, ALICE, before, rounds, grants) == 1 ether);
    }

    function test_a_new_coordinator_takes_nothing_back_either() public {
        _grant(3 ether, 2 ether);
        vm.prank(COORDINATOR);
        _ledger.proposeCoordinator(_id, MALLORY);
        vm.prank(MALLORY);
        _ledger.acceptCoordinator(_id);
        _commit(_id.rewardLeaf(MALLORY, 5 ether), 5 ether);
        vm.warp(block.timestamp + _ledger.REFUND_DELAY());
        vm.prank(MALLORY);
        require(_ledger.refund(_id) == 5 ether && MALLORY.balance == 5 ether);
        require(_claim(ALICE, _of(ALICE, 1), 2) == 3 ether && _claim(BOB, _of(BOB, 1), 2) == 2 ether);
    }

    function test_a_refund_returns_what_no_round_granted_and_grants_are_paid_years_later() public {
        _grant(3 ether, 2 ether);
        _claim(ALICE, _of(ALICE, 1), 1);
        uint256 until = block.timestamp + _ledger.REFUND_DELAY();
        vm.warp(until - 1);
        vm.expectRevert(abi.encodeWithSelector(HyperGPULedger.LedgerRefundTooEarly.selector, until));
        vm.prank(COORDINATOR);
        _ledger.refund(_id);
        vm.warp(until);
        vm.prank(COORDINATOR);
        require(_ledger.refund(_id) == 5 ether && COORDINATOR.balance == 995 ether);
        vm.warp(until + 3650 days);
        require(_claim(BOB, _of(BOB, 1), 1) == 2 ether && address(_ledger).balance == 0);
    }

    function test_a_pause_stops_commits_but_not_claims() public {
        _grant(3 ether, 2 ether);
        vm.prank(COORDINATOR);
        _ledger.setPaused(_id, true);
        vm.expectRevert(
            abi.encodeWithSelector(HyperGPULedger.LedgerSessionNotOpen.selector, _id, HyperGPULedger.Status.Paused)
        );
        vm.prank(COORDINATOR);
        _ledger.commitRound(_id, 2, 0, 0, 0, 5 ether);
        _claim(ALICE, _of(ALICE, 1), 1);
        vm.prank(COORDINATOR);
        _ledger.setPaused(_id, false);
        _commit(0, 5 ether);
    }

    function test_sessions_do_not_pay_each_others_grants() public {
        _grant(3 ether, 2 ether);
        HyperGPULedger.Grant memory grant = _of(ALICE, 1);
        bytes32 first = _id;
        vm.prank(COORDINATOR);
        _id = _ledger.open{value: 5 ether}(bytes32("another"));
        delete _history;
        (bytes32 root,) = Trees.rewardTree(first, _accounts[0], _amounts[0], 0);
        _commit(root, 5 ether);
        _refused(
            ALICE, grant, 1, abi.encodeWithSelector(HyperGPULedger.LedgerInvalidProof.selector, ALICE, 1, 3 ether)
        );
    }
}
